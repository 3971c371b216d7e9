// The functions of updates.h for one instruction set: plain loops, which the compiler turns into vectors.
//
// Of the C++ library only what is a template of a type of this file: an inline function of it, compiled for one instruction
// set, could take the place of that of another.
#include <math.h>

#include <algorithm>
#include <vector>

#include "updates.h"

#if defined(KD_AVX512)
#define KD_NAMESPACE kd_avx512
#elif defined(KD_AVX2)
#define KD_NAMESPACE kd_avx2
#else
#define KD_NAMESPACE kd_portable
#endif
KD_UPDATES(KD_NAMESPACE)

#define KD_ALONE __restrict__

namespace KD_NAMESPACE {
namespace {

float square_root(float x) { return sqrtf(x); }
double square_root(double x) { return sqrt(x); }
double larger(double a, double b) { return a < b ? b : a; }

const double TINY = 1e-37;  // so that what has no moments does not move, and nothing is divided by 0

// Makes up for what a row has not done since its last step: see LazyAdamW.
template <class T> void catch_up(const kd_table& table, kd_int since, T* KD_ALONE weight, T* KD_ALONE first, T* KD_ALONE second) {
    const double idle = double(table.steps - since), moves = table.moves[since];
    const T moved = T(moves), kept = T(table.decays[since]);
    const T least = T(larger(table.epsilon * table.margins[since] / larger(moves, TINY), TINY));
    const T fades = T(pow(table.beta1, idle)), fades_too = T(pow(table.beta2, idle));
    for (kd_int i = 0; i < table.width; ++i) {
        weight[i] = weight[i] * kept - first[i] * moved / (square_root(second[i]) + least);
        first[i] *= fades;
        second[i] *= fades_too;
    }
}

template <class T> struct factors {
    T one, two, rate, root, kept, epsilon;
};

template <class T>
void adamw_step(T* KD_ALONE weight, const T* KD_ALONE slope, T* KD_ALONE first, T* KD_ALONE second, kd_int count, const factors<T>& by) {
    const T one = by.one, two = by.two, rate = by.rate, root = by.root, kept = by.kept, epsilon = by.epsilon;
    for (kd_int i = 0; i < count; ++i) {
        const T g = slope[i];
        const T m = first[i] + (g - first[i]) * one, v = second[i] * two + g * g * (1 - two);
        first[i] = m;
        second[i] = v;
        weight[i] = weight[i] * kept - rate * m / (square_root(v) / root + epsilon);
    }
}

template <class T> struct rows_of {
    T *weight, *first, *second;
    explicit rows_of(const kd_table& table)
        : weight(static_cast<T*>(table.weight)), first(static_cast<T*>(table.first)), second(static_cast<T*>(table.second)) {}
};

template <class T> void bring(const kd_table& table, const kd_int* rows, kd_int count) {
    const rows_of<T> all(table);
    for (kd_int i = 0; i < count; ++i) {
        const kd_int row = rows[i];
        if (row < 0 || row >= table.rows) continue;  // an error of who reads it, which is found there
        const kd_int at = row * table.width, since = table.current[row];
        if (since >= table.steps) continue;
        catch_up(table, since, all.weight + at, all.first + at, all.second + at);
        table.current[row] = table.steps;
    }
}

template <class T> void update(const kd_table& table, const kd_rows& gradient, double rate, double root, double kept) {
    const rows_of<T> all(table);
    const T* slopes = static_cast<const T*>(gradient.values);
    const factors<T> by = {T(1 - table.beta1), T(table.beta2), T(rate), T(root), T(kept), T(table.epsilon)};
    bring<T>(table, gradient.numbers, gradient.count);  // rows that another process has read, and not this one
    for (kd_int i = 0; i < gradient.count; ++i) {
        const kd_int row = gradient.numbers[i], at = row * table.width;
        adamw_step(all.weight + at, slopes + i * table.width, all.first + at, all.second + at, table.width, by);
        table.current[row] = table.steps + 1;
    }
}

// A row last touched in step s moves in this one by rate * beta1^k m / (sqrt(beta2^k v) / root + epsilon), where k is
// what steps have passed since.
void remember(const kd_table& table, double rate, double root, double kept) {
    const double fall = table.beta1 / square_root(table.beta2), margin_fall = table.beta1 / table.beta2;
    double move = rate * root, margin = rate * root * root;
    for (kd_int step = table.steps; step >= 0; --step) {
        if (move < 1e-280) move = 0;  // and what is left of it with it: such numbers take long
        if (margin < 1e-280) margin = 0;
        move *= fall;
        margin *= margin_fall;
        table.moves[step] = table.moves[step] * kept + move;
        table.margins[step] = table.margins[step] * kept + margin;
        table.decays[step] *= kept;
    }
}

template <class T> kd_int merge(const kd_rows* parts, kd_int count, kd_int width, T factor, kd_int* numbers, T* out) {
    struct found {
        kd_int row;
        const T* values;
    };
    std::vector<found> all;
    kd_int room = 0;
    for (const kd_rows* part = parts; part < parts + count; ++part) room += part->count;
    all.reserve(room);
    for (const kd_rows* part = parts; part < parts + count; ++part)
        for (kd_int i = 0; i < part->count; ++i)
            all.push_back({part->numbers[i], static_cast<const T*>(part->values) + i * width});
    std::stable_sort(all.begin(), all.end(), [](const found& a, const found& b) { return a.row < b.row; });
    kd_int rows = 0;
    for (std::size_t i = 0; i < all.size(); ++rows) {
        T* KD_ALONE to = out + rows * width;
        const kd_int row = numbers[rows] = all[i].row;
        const T* from = all[i++].values;
        for (kd_int j = 0; j < width; ++j) to[j] = from[j] * factor;
        for (; i < all.size() && all[i].row == row; ++i) {
            from = all[i].values;
            for (kd_int j = 0; j < width; ++j) to[j] += from[j] * factor;
        }
    }
    return rows;
}

const kd_int LANES = 16, BLOCK = 1024;  // of a sum of squares: in numbers of type T, added up in double block by block

template <class T> double squares_in(const T* x, kd_int count) {
    double total = 0;
    for (kd_int start = 0; start < count; start += BLOCK) {
        const kd_int end = start + BLOCK < count ? start + BLOCK : count, whole = start + (end - start) / LANES * LANES;
        T sums[LANES] = {};
        for (kd_int i = start; i < whole; i += LANES)
            for (int lane = 0; lane < LANES; ++lane) sums[lane] += x[i + lane] * x[i + lane];
        for (kd_int i = whole; i < end; ++i) sums[i - whole] += x[i] * x[i];
        for (T sum : sums) total += double(sum);
    }
    return total;
}

template <class T> double squares_of(const kd_piece* pieces, kd_int count) {
    double total = 0;
    for (const kd_piece* piece = pieces; piece < pieces + count; ++piece)
        if (piece->values) total += squares_in(static_cast<const T*>(piece->values), piece->count);
    return total;
}

template <class T> void gathered(const kd_piece* pieces, kd_int count, T* KD_ALONE out) {
    for (const kd_piece* piece = pieces; piece < pieces + count; out += piece++->count) {
        const T* from = static_cast<const T*>(piece->values);
        for (kd_int i = 0; i < piece->count; ++i) out[i] = from ? from[i] : T(0);
    }
}

template <class T> void mean(const T* const* parts, kd_int processes, kd_int from, kd_int count, T* KD_ALONE out) {
    const T *one = parts[0] + from, *two = parts[1] + from, share = T(1) / T(processes);
    if (processes == 2) {
        for (kd_int i = 0; i < count; ++i) out[i] = (one[i] + two[i]) * share;
        return;
    }
    for (kd_int i = 0; i < count; ++i) out[i] = one[i] + two[i];
    for (kd_int other = 2; other < processes; ++other)
        for (kd_int i = 0; i < count; ++i) out[i] += parts[other][from + i];
    for (kd_int i = 0; i < count; ++i) out[i] *= share;
}

template <class T> double averaged(const kd_piece* pieces, kd_int count, const T* const* parts, kd_int processes) {
    double total = 0;
    kd_int from = 0;
    for (const kd_piece* piece = pieces; piece < pieces + count; from += piece++->count)
        if (T* out = static_cast<T*>(piece->values))
            for (kd_int start = 0; start < piece->count; start += BLOCK) {  // what was written is there for its square
                const kd_int some = start + BLOCK < piece->count ? BLOCK : piece->count - start;
                mean(parts, processes, from + start, some, out + start);
                total += squares_in(out + start, some);
            }
    return total;
}

template <class T> void multiplied(const kd_piece* pieces, kd_int count, T factor) {
    for (const kd_piece* piece = pieces; piece < pieces + count; ++piece) {
        T* x = static_cast<T*>(piece->values);
        for (kd_int i = 0; x && i < piece->count; ++i) x[i] *= factor;
    }
}

template <class T> void all_steps(const kd_parameter* all, kd_int count, double beta1, double beta2, double epsilon) {
    for (const kd_parameter* one = all; one < all + count; ++one) {
        const double step = double(*one->step += 1.0f);
        const factors<T> by = {T(1 - beta1), T(beta2), T(one->rate / (1 - pow(beta1, step))),
                               T(square_root(1 - pow(beta2, step))), T(one->kept), T(epsilon)};
        adamw_step(static_cast<T*>(one->weight), static_cast<const T*>(one->gradient), static_cast<T*>(one->first),
                   static_cast<T*>(one->second), one->count, by);
    }
}

}  // namespace

void bring_rows(const kd_table& table, const kd_int* rows, kd_int count) {
    table.type ? bring<double>(table, rows, count) : bring<float>(table, rows, count);
}

void update_rows(const kd_table& table, const kd_rows& gradient, double rate, double root, double kept) {
    table.type ? update<double>(table, gradient, rate, root, kept) : update<float>(table, gradient, rate, root, kept);
    remember(table, rate, root, kept);
}

kd_int merge_rows(const kd_rows* parts, kd_int count, kd_int type, kd_int width, double factor, kd_int* numbers, void* out) {
    return type ? merge(parts, count, width, factor, numbers, static_cast<double*>(out))
                : merge(parts, count, width, float(factor), numbers, static_cast<float*>(out));
}

void gather(const kd_piece* pieces, kd_int count, kd_int type, void* out) {
    type ? gathered(pieces, count, static_cast<double*>(out)) : gathered(pieces, count, static_cast<float*>(out));
}

double average(const kd_piece* pieces, kd_int count, const void* const* parts, kd_int processes, kd_int type) {
    return type ? averaged(pieces, count, reinterpret_cast<const double* const*>(parts), processes)
                : averaged(pieces, count, reinterpret_cast<const float* const*>(parts), processes);
}

double squares(const kd_piece* pieces, kd_int count, kd_int type) {
    return type ? squares_of<double>(pieces, count) : squares_of<float>(pieces, count);
}

void multiply(const kd_piece* pieces, kd_int count, kd_int type, double factor) {
    type ? multiplied(pieces, count, factor) : multiplied(pieces, count, float(factor));
}

void adamw(const kd_parameter* all, kd_int count, kd_int type, double beta1, double beta2, double epsilon) {
    type ? all_steps<double>(all, count, beta1, beta2, epsilon) : all_steps<float>(all, count, beta1, beta2, epsilon);
}

}  // namespace KD_NAMESPACE
