// The op on a CPU, for one instruction set: compiled once for each (KD_AVX512, KD_AVX2, or neither for the portable one).
//
// Rows of more than KD_SHORT columns are taken one at a time, a vector going over the columns (kd_columns). Shorter rows
// fill the lanes of a vector, one row a lane (kd_rows_in_lanes), each with its own columns, temperature and weights.
#if defined(KD_AVX512)
#define KD_NAMESPACE kd_avx512
#elif defined(KD_AVX2)
#define KD_NAMESPACE kd_avx2
#else
#define KD_NAMESPACE kd_portable
#endif
#if defined(KD_AVX512) || defined(KD_AVX2)
#include <immintrin.h>
#endif

#include "call.cuh"
#include "number.cuh"
#include "cpu_vector.h"
#include "row.cuh"

namespace KD_NAMESPACE {

enum { KD_SHORT = 32, KD_BLOCK = 512 };  // columns: of a row that fits in a lane; of one partial sum

KD_FN int kd_hard_at(double temperature) {
    return temperature == 1 ? KD_HARD_AT_1 : temperature == 2 ? KD_HARD_AT_2 : KD_HARD;
}

// One row, a vector over its columns. S and T: types of student and teacher in memory.
template <class V, class S, class T> struct kd_columns {
    typedef V X;
    typedef kd_lanes<V> lanes;
    typedef typename lanes::mask M;
    typedef typename lanes::number A;
    enum { sparse = 1, width = lanes::width };

    // A position is a vector of columns from j on: a whole one, or the first n lanes of one.
    struct whole { kd_int j; };
    struct part { kd_int j; int n; };

    const kd_call& call;
    kd_int size, label_column, row;
    const void* student;
    void* gradient;
    const void* teacher;
    kd_int student_at, gradient_at, teacher_at;
    bool wants_gradient;
    int hard;  // how the hard part's exponentials are had, for the temperature is the same in the whole row
    V share_of[KD_MOST_MEMBERS];

    KD_FN kd_columns(const kd_call& call_, kd_int row_, const kd_asked<A>& asked) : call(call_), row(row_) {
        size = asked.count;
        label_column = asked.label;
        student = call.student;
        gradient = call.gradient;
        teacher = call.teacher;
        student_at = kd_place(row, call.inner, call.student_outer, call.student_inner) + asked.start;
        gradient_at = kd_place(row, call.inner, call.gradient_outer, call.gradient_inner) + asked.start;
        teacher_at = kd_place(row, call.inner, call.teacher_outer, call.teacher_inner);
        wants_gradient = gradient != 0;
        hard = kd_hard_at((double)asked.temperature);
        A total = A(0);
        for (int k = 0; call.shares && k < call.members; ++k) total += share_given(k);
        for (int k = 0; k < call.members; ++k) {
            A share = call.members == 1 ? A(1) : call.shares ? share_given(k) / total : A(1) / A(call.members);
            share_of[k] = V(share);
        }
    }
    KD_FN A share_given(int k) const {
        return ((const A*)call.shares)[k * call.share_member + row * call.share_row];
    }

    KD_FN V z(whole at) const { return lanes::load(student, student_at + at.j, call.student_type, (S*)0); }
    KD_FN V z(part at) const {
        return lanes::load(student, student_at + at.j, call.student_type, at.n, -kd_constant<V>::infinity(), (S*)0);
    }
    KD_FN V v(whole at, int k) const {
        return lanes::load(teacher, teacher_at + k * call.teacher_member + at.j, call.teacher_type, (T*)0);
    }
    KD_FN V v(part at, int k) const {
        kd_int first = teacher_at + k * call.teacher_member + at.j;
        return lanes::load(teacher, first, call.teacher_type, at.n, -kd_constant<V>::infinity(), (T*)0);
    }
    template <class At> KD_FN M is_label(At at) const { return lanes::only(label_column - at.j); }
    KD_FN V z_label() const {
        if (label_column < 0) return V(0);
        return V(kd_read<A>(student, student_at + label_column, call.student_type, (S*)0));
    }
    KD_FN V columns() const { return V(size); }
    KD_FN int members() const { return (int)call.members; }
    KD_FN V share(int k) const { return share_of[k]; }

    // Calls f at every position of the columns [from, to) and then end() after each block.
    template <class F, class E> KD_FN void each(kd_int from, kd_int to, F f, E end) const {
        kd_int j = from;
        while (j < to) {
            kd_int stop = to - j > KD_BLOCK ? j + KD_BLOCK : to;
            for (; j + width <= stop; j += width) f(whole{j});
            if (j < stop) {
                f(part{j, (int)(stop - j)});
                j = stop;
            }
            end();
        }
    }
    template <class At> KD_FN V kept(At, V term) const { return term; }
    KD_FN V kept(part at, V term) const { return select(lanes::first(at.n), term, V(0)); }

    KD_FN void stored(whole at, V slope) const {
        lanes::store(gradient, gradient_at + at.j, call.student_type, slope, (S*)0);
    }
    KD_FN void stored(part at, V slope) const {
        lanes::store(gradient, gradient_at + at.j, call.student_type, at.n, slope, (S*)0);
    }

    // Lane by lane with a running maximum, a block at a time: a block is read twice, the second time from the cache.
    // HARD says which sums are wanted: of 2^(x scale[0]), and of the hard part's exponentials.
    template <int HARD, class F> KD_FN void running(F f, V scale, kd_norm<V>& out, kd_norm<V>& plain, kd_int n) const {
        const V none = -kd_constant<V>::infinity(), binary = scale * V(KD_LOG2E), one = V(KD_LOG2E);
        V top = none, sum = V(0), plain_sum = V(0);
        for (kd_int from = 0; from < n; from += KD_BLOCK) {
            kd_int to = n - from > KD_BLOCK ? from + KD_BLOCK : n, j = from;
            V high[4] = {top, none, none, none};  // four, for each waits for the one before it
            for (; j + 4 * width <= to; j += 4 * width)
                for (int i = 0; i < 4; ++i) high[i] = larger(f(whole{j + i * width}), high[i]);
            V most = larger(larger(high[0], high[1]), larger(high[2], high[3]));
            each(j, to, [&](auto at) { most = larger(f(at), most); }, [] {});
            V shift = select(most == none, V(0), most), block = V(0), plain_block = V(0);
            each(from, to, [&](auto at) {
                V d = f(at) - shift, e = power_of_two(d * binary);
                block = block + e;
                if (HARD == KD_HARD || HARD == KD_HARD_AT_2)
                    plain_block = plain_block + kd_plain_exponential<HARD>(e, d);
            }, [] {});
            sum = sum * power_of_two((top - shift) * binary) + block;
            if (HARD == KD_HARD || HARD == KD_HARD_AT_2)
                plain_sum = plain_sum * power_of_two((top - shift) * one) + plain_block;
            top = most;
        }
        V most = V(lanes::maximum(top)), shift = select(top == none, V(0), top);
        // A row that is -inf throughout is not a number, like its maximum's difference from itself.
        auto norm = [&](V lane_sums, V by) {
            V all = V(lanes::sum(select(top == none, V(0), lane_sums * power_of_two((shift - most) * by))));
            return kd_norm<V>{most, V(1) / all, logarithm(all)};
        };
        out = norm(sum, binary);
        if (HARD == KD_HARD_AT_1) plain = out;
        else if (HARD) plain = norm(plain_sum, one);
    }
    template <class F> KD_FN void normaliser(F f, V scale, kd_norm<V>& out) const {
        running<KD_NO_HARD>(f, scale, out, out, size);
    }
    template <class F> KD_FN void normalisers(F f, V scale, kd_norm<V>& out, kd_norm<V>& plain) const {
        if (hard == KD_HARD_AT_1) running<KD_HARD_AT_1>(f, scale, out, plain, size);
        else if (hard == KD_HARD_AT_2) running<KD_HARD_AT_2>(f, scale, out, plain, size);
        else running<KD_HARD>(f, scale, out, plain, size);
    }

    template <int n, class F> KD_FN void summed(kd_int from, kd_int to, F f, V (&sums)[n]) const {
        V block[n];
        for (int i = 0; i < n; ++i) block[i] = V(0);
        each(from, to, [&](auto at) {
            V terms[n];
            f(at, terms);
            for (int i = 0; i < n; ++i) block[i] = block[i] + kept(at, terms[i]);
        }, [&] {
            for (int i = 0; i < n; ++i) {
                sums[i] = sums[i] + block[i];
                block[i] = V(0);
            }
        });
    }
    template <int n> KD_FN void joined(V (&sums)[n]) const {
        for (int i = 0; i < n; ++i) sums[i] = V(lanes::sum(sums[i]));
    }
    template <int n, class F> KD_FN void sum(F f, V (&out)[n]) const {
        for (int i = 0; i < n; ++i) out[i] = V(0);
        summed<n>(0, size, f, out);
        joined<n>(out);
    }
    template <int n, class F> KD_FN void map(F f, V (&out)[n < 1 ? 1 : n]) const {
        enum { terms = n < 1 ? 1 : n };
        for (int i = 0; i < terms; ++i) out[i] = V(0);
        if (wants_gradient)
            summed<terms>(0, size, [&](auto at, V (&t)[terms]) {
                if (n < 1) t[0] = V(0);
                stored(at, f(at, t));
            }, out);
        else summed<terms>(0, size, [&](auto at, V (&t)[terms]) { f(at, t); }, out);
        joined<terms>(out);
    }

    // The list of a sparse teacher: a vector over its places.
    KD_FN kd_int listed() const { return call.listed; }
    KD_FN const kd_int* list() const { return call.listed_index + row * call.listed; }
    KD_FN int places(whole) const { return width; }
    KD_FN int places(part b) const { return b.n; }
    template <class At> KD_FN V listed_z(At b) const {
        A values[width];
        for (int lane = 0; lane < width; ++lane)
            values[lane] = lane < places(b) ? kd_read<A>(student, student_at + list()[b.j + lane], call.student_type, (S*)0)
                                            : -kd_constant<A>::infinity();
        return lanes::of(values);
    }
    template <class At> KD_FN V listed_log(At b) const {
        A values[width];
        for (int lane = 0; lane < width; ++lane)
            values[lane] = lane < places(b) ? ((const A*)call.listed_value)[row * call.listed + b.j + lane]
                                            : call.listed_is_log ? -kd_constant<A>::infinity() : A(0);
        V value = lanes::of(values);
        return call.listed_is_log ? value : logarithm(value);
    }
    template <class At> KD_FN M listed_is_label(At b) const {
        bool flags[width];
        for (int lane = 0; lane < width; ++lane)
            flags[lane] = lane < places(b) && list()[b.j + lane] == label_column;
        return lanes::of_flags(flags);
    }
    template <class F> KD_FN void listed_normaliser(F f, V scale, kd_norm<V>& out) const {
        running<KD_NO_HARD>(f, scale, out, out, call.listed);
    }
    template <int n, class F> KD_FN void listed_sum(F f, V (&out)[n]) const {
        for (int i = 0; i < n; ++i) out[i] = V(0);
        summed<n>(0, call.listed, f, out);
        joined<n>(out);
    }
    template <class F> KD_FN void gaps(F f) const {  // f(from, to) for every run of columns that are not listed
        kd_int from = 0;
        for (kd_int b = 0; b < call.listed; ++b) {
            if (list()[b] > from) f(from, list()[b]);
            from = list()[b] + 1;
        }
        if (from < size) f(from, size);
    }
    template <int n, class F> KD_FN void unlisted_sum(F f, V (&out)[n]) const {
        for (int i = 0; i < n; ++i) out[i] = V(0);
        gaps([&](kd_int from, kd_int to) { summed<n>(from, to, f, out); });
        joined<n>(out);
    }
    template <class F> KD_FN void unlisted_map(F f) const {
        gaps([&](kd_int from, kd_int to) { each(from, to, [&](auto at) { stored(at, f(at)); }, [] {}); });
    }
    template <class F> KD_FN void listed_map(F f) const {
        each(0, call.listed, [&](auto b) {
            A values[width];
            lanes::to(values, f(b));
            for (int lane = 0; lane < places(b); ++lane)
                kd_write<A>(gradient, gradient_at + list()[b.j + lane], values[lane], call.student_type, (S*)0);
        }, [] {});
    }
};

// As many short rows as a vector has lanes; a position is a column of all of them.
template <class V> struct kd_rows_in_lanes {
    typedef V X;
    typedef kd_lanes<V> lanes;
    typedef typename lanes::mask M;
    typedef typename lanes::number A;
    enum { sparse = 0, width = lanes::width };

    V student[KD_SHORT], teacher[KD_MOST_MEMBERS][KD_SHORT], slopes[KD_SHORT], share_of[KD_MOST_MEMBERS];
    V sizes, labels;
    int most, count, hard;  // hard: as in kd_columns
    bool wants_gradient;

    KD_FN V z(int j) const { return student[j]; }
    KD_FN V v(int j, int k) const { return teacher[k][j]; }
    KD_FN M is_label(int j) const { return labels == V(j); }
    KD_FN V z_label() const {
        V found = V(0);
        for (int j = 0; j < most; ++j) found = select(is_label(j), student[j], found);
        return found;
    }
    KD_FN V columns() const { return sizes; }
    KD_FN int members() const { return count; }
    KD_FN V share(int k) const { return share_of[k]; }
    template <int HARD, class F> KD_FN void running(F f, V scale, kd_norm<V>& out, kd_norm<V>& plain) const {
        V top = f(0), sum = V(0), plain_sum = V(0), binary = scale * V(KD_LOG2E);
        for (int j = 1; j < most; ++j) top = larger(f(j), top);
        for (int j = 0; j < most; ++j) {
            M inside = V(j) < sizes;
            V d = f(j) - top, e = power_of_two(d * binary);
            sum = sum + select(inside, e, V(0));
            if (HARD == KD_HARD || HARD == KD_HARD_AT_2)
                plain_sum = plain_sum + select(inside, kd_plain_exponential<HARD>(e, d), V(0));
        }
        out = {top, V(1) / sum, logarithm(sum)};
        if (HARD == KD_HARD_AT_1) plain = out;
        else if (HARD) plain = {top, V(1) / plain_sum, logarithm(plain_sum)};
    }
    template <class F> KD_FN void normaliser(F f, V scale, kd_norm<V>& out) const {
        running<KD_NO_HARD>(f, scale, out, out);
    }
    template <class F> KD_FN void normalisers(F f, V scale, kd_norm<V>& out, kd_norm<V>& plain) const {
        if (hard == KD_HARD_AT_1) running<KD_HARD_AT_1>(f, scale, out, plain);
        else if (hard == KD_HARD_AT_2) running<KD_HARD_AT_2>(f, scale, out, plain);
        else running<KD_HARD>(f, scale, out, plain);
    }
    template <int n, class F> KD_FN void sum(F f, V (&out)[n]) const {
        for (int i = 0; i < n; ++i) out[i] = V(0);
        for (int j = 0; j < most; ++j) {
            V terms[n];
            f(j, terms);
            for (int i = 0; i < n; ++i) out[i] = out[i] + select(V(j) < sizes, terms[i], V(0));
        }
    }
    template <int n, class F> KD_FN void map(F f, V (&out)[n < 1 ? 1 : n]) {
        enum { count = n < 1 ? 1 : n };
        sum<count>([&](int j, V (&terms)[count]) {
            if (n < 1) terms[0] = V(0);
            slopes[j] = f(j, terms);
        }, out);
    }
};

template <bool KL, class Team, class Row>
static kd_parts<typename Team::X> kd_hot(Team& team, const Row& row, bool hard) {
    if (!hard) return kd_hot_row<KL, KD_NO_HARD>(team, row);
    if (team.hard == KD_HARD_AT_1) return kd_hot_row<KL, KD_HARD_AT_1>(team, row);
    if (team.hard == KD_HARD_AT_2) return kd_hot_row<KL, KD_HARD_AT_2>(team, row);
    return kd_hot_row<KL, KD_HARD>(team, row);
}

// The rows that are not hot, of any types: one function, not a copy in each of its callers.
template <class V>
static __attribute__((noinline)) kd_parts<V> kd_seldom(
    const kd_call& call, kd_int row, const kd_asked<typename kd_lanes<V>::number>& asked,
    const kd_row_values<V, typename kd_lanes<V>::mask>& values) {
    kd_columns<V, kd_any, kd_any> team(call, row, asked);
    return kd_any_row(team, values, asked.kind, (int)call.tail);
}

// What one row added to the results.
struct kd_totals { double loss, soft, hard; };

template <class A> KD_FN void kd_deliver(const kd_call& call, kd_int row, const A (&out)[3], kd_totals& totals) {
    totals.loss += (double)out[0];
    totals.soft += (double)out[1];
    totals.hard += (double)out[2];
    if (call.reduction != KD_EACH || !call.loss) return;
    ((A*)call.loss)[row] = out[0];
    if (call.soft) ((A*)call.soft)[row] = out[1];
    if (call.hard) ((A*)call.hard)[row] = out[2];
}

static void kd_zeros(const kd_call& call, kd_int row, kd_int from, kd_int to) {
    kd_int bytes = kd_type_bytes(call.student_type);
    kd_int at = kd_place(row, call.inner, call.gradient_outer, call.gradient_inner) + from;
    if (to > from) __builtin_memset((char*)call.gradient + at * bytes, 0, (unsigned long)((to - from) * bytes));
}

template <class V, class S, class T>
static void kd_one_row(const kd_call& call, kd_int row, typename kd_lanes<V>::number scale, kd_totals& totals) {
    typedef typename kd_lanes<V>::number A;
    typedef typename kd_lanes<V>::mask M;
    kd_asked<A> asked = kd_ask<A>(call, row, scale);
    if (call.gradient) {
        kd_zeros(call, row, 0, asked.counts ? asked.start : call.classes);
        if (asked.counts) kd_zeros(call, row, asked.start + asked.count, call.classes);
    }
    A out[3] = {A(0), A(0), A(0)};
    if (asked.counts) {
        kd_columns<V, S, T> team(call, row, asked);
        const int every = kd_lanes<V>::width;
        kd_row_values<V, M> values = {
            V(A(1) / asked.temperature), V(asked.beta), V(asked.soft_gradient), V(asked.hard_gradient),
            kd_lanes<V>::first(asked.soft ? every : 0), kd_lanes<V>::first(asked.hard ? every : 0),
        };
        kd_parts<V> parts;
        bool hot = asked.soft && call.tail == KD_DENSE && call.members == 1;
        if (hot && asked.kind == KD_CE) parts = kd_hot<false>(team, values, asked.hard);
        else if (hot && asked.kind == KD_KL) parts = kd_hot<true>(team, values, asked.hard);
        else parts = kd_seldom<V>(call, row, asked, values);
        A lanes[2][kd_lanes<V>::width];
        kd_lanes<V>::to(lanes[0], parts.soft);
        kd_lanes<V>::to(lanes[1], parts.hard);
        kd_answer<A>(asked, lanes[0][0], lanes[1][0], out);
    }
    kd_deliver(call, row, out, totals);
}

// Rows that fit in lanes. What kd_ask and kd_answer say of one row is said here of a vector of rows.
template <class V> struct kd_short {
    typedef kd_lanes<V> lanes;
    typedef typename lanes::number A;
    typedef typename lanes::mask M;
    enum { width = lanes::width };

    const kd_call& call;
    kd_int from;  // the first row
    int here;     // how many rows there are
    A numbers[KD_SHORT][width];

    // A value of each row; those beyond the last row get `rest`.
    KD_FN V given(const void* values, double value, A rest) const {
        if (!values) return V((A)value);
        if (here == width) return lanes::of((const A*)values + from);
        return lanes::load(values, from, 0, here, V(rest), (A*)0);
    }
    KD_FN V whole(const kd_int* values, A value, A rest) const {
        if (!values) return V(value);
        A out[width];
        for (int lane = 0; lane < width; ++lane) out[lane] = lane < here ? (A)values[from + lane] : rest;
        return lanes::of(out);
    }
    // -2: ignored; KD_SHORT: no class of any row.
    template <class L> KD_FN V labels_of(const L* labels) const {
        A out[width] = {};
        const L ignored = (L)call.ignore_index;
        const bool possible = (kd_int)ignored == call.ignore_index;
        for (int lane = 0; lane < here; ++lane) {
            L label = labels[from + lane];
            A value = (A)label;
            value = (label < 0) | (label > KD_SHORT) ? A(KD_SHORT) : value;
            out[lane] = possible & (label == ignored) ? A(-2) : value;
        }
        return lanes::of(out);
    }
    KD_FN V label_of_rows() const {
        return call.label_bytes == 8 ? labels_of((const kd_int*)call.labels) : labels_of((const int*)call.labels);
    }

    // numbers[j][lane] = element j of the lane's row.
    template <class S> KD_FN void fetch(const void* data, kd_int type, kd_int outer, kd_int inner, kd_int member,
                                        const kd_int* starts, const A* sizes, S* tag) {
        if (here == width && !call.count && call.inner >= call.rows) {  // evenly spaced rows of one length
            const S* first_row = (const S*)data + from * inner + member;
            for (int j = 0; j < (int)call.classes; ++j)
                for (int lane = 0; lane < width; ++lane)
                    kd_narrow(kd_widen(first_row[lane * inner + j]), numbers[j][lane]);
            return;
        }
        for (int lane = 0; lane < here; ++lane) {
            kd_int at = kd_place(from + lane, call.inner, outer, inner) + member + starts[lane];
            int size = (int)sizes[lane];
            for (int j = 0; j < size; ++j) numbers[j][lane] = kd_read<A>(data, at + j, type, tag);
        }
    }
    KD_FN void fetched(const void* data, kd_int type, kd_int outer, kd_int inner, kd_int member, const kd_int* starts,
                       const A* sizes) {
        if (type == KD_FLOAT32) fetch(data, type, outer, inner, member, starts, sizes, (float*)0);
        else if (type == KD_BFLOAT16) fetch(data, type, outer, inner, member, starts, sizes, (kd_bfloat16*)0);
        else if (type == KD_FLOAT16) fetch(data, type, outer, inner, member, starts, sizes, (kd_half*)0);
        else fetch(data, type, outer, inner, member, starts, sizes, (double*)0);
    }
    template <class S> KD_FN void put(const bool* mine, bool all, const kd_int* starts, const A* sizes, S* tag) const {
        if (all && here == width && !call.count && call.inner >= call.rows) {
            S* first_row = (S*)call.gradient + from * call.gradient_inner;
            for (int j = 0; j < (int)call.classes; ++j)
                for (int lane = 0; lane < width; ++lane)
                    kd_narrow(numbers[j][lane], first_row[lane * call.gradient_inner + j]);
            return;
        }
        for (int lane = 0; lane < here; ++lane) {
            if (!all && !mine[lane]) continue;
            kd_int at = kd_place(from + lane, call.inner, call.gradient_outer, call.gradient_inner) + starts[lane];
            int size = (int)sizes[lane];
            for (int j = 0; j < size; ++j) kd_write<A>(call.gradient, at + j, numbers[j][lane], call.student_type, tag);
        }
    }
};

template <class V>
static void kd_short_rows(const kd_call& call, kd_int first, kd_int last, typename kd_lanes<V>::number scale,
                          kd_totals& totals) {
    typedef kd_lanes<V> lanes;
    typedef typename lanes::number A;
    typedef typename lanes::mask M;
    enum { width = lanes::width };
    const V zero = V(0), one = V(1), masked = -kd_constant<V>::infinity();
    const bool teacher = call.members > 0;
    kd_short<V> rows = {call, 0, 0, {}};
    kd_rows_in_lanes<V> team;
    team.wants_gradient = call.gradient != 0;
    team.count = (int)call.members;
    team.hard = call.temperatures ? KD_HARD : kd_hard_at(call.temperature);
    const kd_int none[width] = {};
    kd_int starts[width] = {};
    A sizes[width];
    const bool one_temperature = !call.temperatures;
    const V common = V((A)call.temperature), common_scale = one / common;
    for (kd_int from = first; from < last; from += width) {
        int here = last - from < width ? (int)(last - from) : width, most = (int)call.classes;
        rows.from = from;
        rows.here = here;
        // Which rows count, and which have which part.
        V weight = rows.given(call.weights, call.weight, A(0)), alpha = rows.given(call.alphas, call.alpha, A(0));
        if (here < width) weight = select(lanes::first(here), weight, zero);
        V size = rows.whole(call.count, (A)call.classes, A(1)), label = V(-2);
        V kind = rows.whole(call.kinds, (A)call.kind, (A)KD_MSE);
        if (call.labels) {
            label = rows.label_of_rows();
            label = select(zero < alpha, label, V(-2));
            if (call.ignore_row) weight = select((label == V(-2)) & (zero < alpha), zero, weight);
        }
        M idle = weight == zero;
        label = select(idle, V(-2), label);
        V has_hard = select(V(-1.5) < label, one, zero);
        V has_soft = teacher ? select(idle, zero, select(alpha < one, one, zero)) : zero;
        // A label that is no class of its row, and a hard part of bce, are not a number.
        V unknown = select(size < label + one, one, zero) * has_hard;
        V temperature = one_temperature ? common : select(idle, one, rows.given(call.temperatures, 0, A(1)));
        V inverse = one_temperature ? common_scale : one / temperature;
        V soft_scale = call.scale_T2 ? temperature * temperature : one, unit = call.scale_T2 ? temperature : inverse;
        V plain = select(kind == V(KD_MSE), one, select(kind == V(KD_MSE_CENTERED), one, zero));
        soft_scale = select(plain == one, one, soft_scale);
        unit = select(plain == one, one, unit);
        if (call.members == 1 && call.shares) {  // one, or not a number: a mean of nothing
            V share = call.share_row ? rows.given(call.shares, 0, A(1)) : V(*(const A*)call.shares);
            soft_scale = soft_scale * select(has_soft == one, share / share, one);
            unit = unit * select(has_soft == one, share / share, one);
        }
        V incoming = V(scale);
        if (call.grad_output)
            incoming = incoming * (call.grad_output_stride ? rows.given(call.grad_output, 0, A(0)) : V(*(const A*)call.grad_output));
        kd_row_values<V, M> values;
        values.scale = inverse;
        values.beta = rows.given(call.betas, call.beta, A(0.5));
        values.soft_gradient = select(has_soft == one, weight * incoming * (one - alpha) * unit, zero);
        values.hard_gradient = select(has_hard == one, weight * incoming * alpha, zero);
        values.hard_gradient = select(unknown == one, kd_constant<V>::nan(), values.hard_gradient);
        values.soft = has_soft == one;
        values.hard = has_hard == one;
        team.sizes = select(idle, one, size);
        team.labels = label;

        // The logits, a column of all rows in one vector; rows that are not to be read are 0.
        lanes::to(sizes, team.sizes);
        if (call.count) {
            most = 1;
            for (int lane = 0; lane < here; ++lane) {
                starts[lane] = call.start[from + lane];
                if (sizes[lane] > (A)most) most = (int)sizes[lane];
            }
        }
        team.most = most;
        rows.fetched(call.student, call.student_type, call.student_outer, call.student_inner, 0, starts, sizes);
        for (int j = 0; j < most; ++j)
            team.student[j] = select(V(j) < team.sizes, select(idle, zero, lanes::of(rows.numbers[j])), masked);
        // With one member rows go the same way whether they have a soft part or not, lest a row's last bits depend on
        // the rows beside it.
        bool taught = any(values.soft) || call.members == 1, has_labels = any(values.hard);
        for (int k = 0; taught && k < call.members; ++k) {
            rows.fetched(call.teacher, call.teacher_type, call.teacher_outer, call.teacher_inner,
                         k * call.teacher_member, none, sizes);
            for (int j = 0; j < most; ++j)
                team.teacher[k][j] =
                    select(V(j) < team.sizes, select(values.soft, lanes::of(rows.numbers[j]), zero), masked);
            team.share_of[k] = one;
        }
        if (taught && call.members > 1) {
            V total = zero;
            for (int k = 0; k < call.members; ++k) {
                const A* share = (const A*)call.shares + k * call.share_member;
                V given = !call.shares ? one : call.share_row ? rows.given(share, 0, A(1)) : V(*share);
                team.share_of[k] = select(values.soft, given, one);
                total = total + team.share_of[k];
            }
            for (int k = 0; k < call.members; ++k) team.share_of[k] = team.share_of[k] / total;
        }

        bool written[width] = {}, kinds[KD_KINDS] = {}, every = here == width && !call.count && !any(idle);
        A kind_of[width] = {}, counts[width] = {};
        if (every && !call.kinds) {  // the usual call: all rows alike
            kinds[call.kind] = true;
        } else {
            lanes::to(counts, select(idle, zero, one));
            lanes::to(kind_of, kind);
            for (int lane = 0; lane < here; ++lane) {
                bool known = kind_of[lane] >= A(0) && kind_of[lane] < A(KD_KINDS);
                if (!known) kind_of[lane] = A(0);
                if (counts[lane] != A(0)) kinds[(int)kind_of[lane]] = true;
                if (call.gradient && (call.count || counts[lane] == A(0))) kd_zeros(call, from + lane, 0, call.classes);
            }
            kind = lanes::of(kind_of);
        }
        V soft = zero, hard = zero;
        for (int one_kind = 0; one_kind < KD_KINDS; ++one_kind) {
            if (!kinds[one_kind]) continue;
            kd_parts<V> parts;
            bool hot = team.count == 1 && taught;
            if (hot && one_kind == KD_CE) parts = kd_hot<false>(team, values, has_labels);
            else if (hot && one_kind == KD_KL) parts = kd_hot<true>(team, values, has_labels);
            else parts = kd_any_row(team, values, one_kind, KD_DENSE);
            M mine = kind == V(one_kind);
            soft = select(mine, parts.soft, soft);
            hard = select(mine, parts.hard, hard);
            if (!call.gradient) continue;
            for (int j = 0; j < most; ++j) lanes::to(rows.numbers[j], team.slopes[j]);
            bool all = every && !call.kinds;
            for (int lane = 0; !all && lane < here; ++lane)
                written[lane] = counts[lane] != A(0) && kind_of[lane] == (A)one_kind;
            if (call.student_type == KD_FLOAT32) rows.put(written, all, starts, sizes, (float*)0);
            else if (call.student_type == KD_BFLOAT16) rows.put(written, all, starts, sizes, (kd_bfloat16*)0);
            else if (call.student_type == KD_FLOAT16) rows.put(written, all, starts, sizes, (kd_half*)0);
            else rows.put(written, all, starts, sizes, (double*)0);
        }
        // As kd_answer.
        soft = select(values.soft, soft * soft_scale, zero);
        hard = select(unknown == one, kd_constant<V>::nan(), select(values.hard, hard, zero));
        V mixed = select(values.hard, alpha * hard, zero) + select(values.soft, (one - alpha) * soft, zero);
        V out[3] = {select(idle, zero, weight * mixed), select(idle, zero, weight * soft), select(idle, zero, weight * hard)};
        totals.loss += (double)lanes::sum(out[0]);
        totals.soft += (double)lanes::sum(out[1]);
        totals.hard += (double)lanes::sum(out[2]);
        if (call.reduction != KD_EACH || !call.loss) continue;
        void* const results[3] = {call.loss, call.soft, call.hard};
        for (int i = 0; i < 3; ++i)
            if (results[i]) lanes::store(results[i], from, 0, here, out[i], (A*)0);
    }
}

template <class V>
static void kd_rows(const kd_call& call, kd_int first, kd_int last, typename kd_lanes<V>::number scale,
                    kd_totals& totals) {
    kd_int longest = call.count && call.width && call.width < call.classes ? call.width : call.classes;
    if (longest <= KD_SHORT && call.tail == KD_DENSE) return kd_short_rows<V>(call, first, last, scale, totals);
    kd_int type = call.student_type == call.teacher_type ? call.student_type : -1;
    for (kd_int row = first; row < last; ++row) {
#if defined(KD_AVX512) || defined(KD_AVX2)
        if (type == KD_FLOAT32) kd_one_row<V, float, float>(call, row, scale, totals);
        else if (type == KD_BFLOAT16) kd_one_row<V, kd_bfloat16, kd_bfloat16>(call, row, scale, totals);
        else if (type == KD_FLOAT16) kd_one_row<V, kd_half, kd_half>(call, row, scale, totals);
        else
#endif
            kd_one_row<V, kd_any, kd_any>(call, row, scale, totals);
    }
    (void)type;
}

// gradient = student * factor, row by row.
template <class V> static void kd_scaled(const kd_call& call, kd_int first, kd_int last, V factor) {
    typedef kd_lanes<V> lanes;
    for (kd_int row = first; row < last; ++row) {
        kd_int from = kd_place(row, call.inner, call.student_outer, call.student_inner);
        kd_int to = kd_place(row, call.inner, call.gradient_outer, call.gradient_inner), j = 0;
        for (; j + lanes::width <= call.classes; j += lanes::width)
            lanes::store(call.gradient, to + j, call.student_type,
                         lanes::load(call.student, from + j, call.student_type, (kd_any*)0) * factor, (kd_any*)0);
        int rest = (int)(call.classes - j);
        if (rest == 0) continue;
        V value = lanes::load(call.student, from + j, call.student_type, rest, V(0), (kd_any*)0) * factor;
        lanes::store(call.gradient, to + j, call.student_type, rest, value, (kd_any*)0);
    }
}

#if defined(KD_AVX512) || defined(KD_AVX2)
typedef kd_vector kd_floats;
#else
typedef float kd_floats;
#endif

template <class L> static kd_label_counts kd_count_labels(const kd_call& call, const L* labels) {
    kd_label_counts counts = {0, 0};
    for (kd_int row = 0; row < call.rows; ++row) {  // without branches, so that it is done in vectors
        kd_int label = labels[row], kept = label != call.ignore_index;
        counts.kept += kept;
        counts.outside += kept & ((label < 0) | (label >= call.classes));
    }
    return counts;
}

// The functions that soft_cross_entropy.cpp reaches by the name of the instruction set. float64 is the portable one's.
void rows(const kd_call& call, kd_int first, kd_int last, double scale, double (&out)[3]) {
    kd_totals totals = {0, 0, 0};
#if !defined(KD_AVX512) && !defined(KD_AVX2)
    if (call.student_type == KD_FLOAT64) kd_rows<double>(call, first, last, scale, totals);
    else
#endif
        kd_rows<kd_floats>(call, first, last, (float)scale, totals);
    out[0] = totals.loss;
    out[1] = totals.soft;
    out[2] = totals.hard;
}

void scaled(const kd_call& call, kd_int first, kd_int last, double factor) {
#if !defined(KD_AVX512) && !defined(KD_AVX2)
    if (call.student_type == KD_FLOAT64) return kd_scaled<double>(call, first, last, factor);
#endif
    kd_scaled<kd_floats>(call, first, last, kd_floats((float)factor));
}

kd_label_counts labels(const kd_call& call) {
    return call.label_bytes == 8 ? kd_count_labels(call, (const kd_int*)call.labels)
                                 : kd_count_labels(call, (const int*)call.labels);
}

}  // namespace KD_NAMESPACE
