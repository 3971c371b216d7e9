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
    template <int SCALES, class F> KD_FN void running(F f, const V (&scale)[2], kd_norm<V>* (&out)[2], kd_int n) const {
        const V none = -kd_constant<V>::infinity();
        V top = none, sums[2] = {V(0), V(0)};
        for (kd_int from = 0; from < n; from += KD_BLOCK) {
            kd_int to = n - from > KD_BLOCK ? from + KD_BLOCK : n;
            V high = top;
            each(from, to, [&](auto at) { high = larger(f(at), high); }, [] {});
            V shift = select(high == none, V(0), high), block[2] = {V(0), V(0)};
            each(from, to, [&](auto at) {
                V d = f(at) - shift;
                for (int i = 0; i < SCALES; ++i) block[i] = block[i] + exponential(d * scale[i]);
            }, [] {});
            for (int i = 0; i < SCALES; ++i) sums[i] = sums[i] * exponential((top - shift) * scale[i]) + block[i];
            top = high;
        }
        V most = V(lanes::maximum(top)), shift = select(top == none, V(0), top);
        for (int i = 0; i < SCALES; ++i) {
            V sum = V(lanes::sum(sums[i] * select(top == none, V(0), exponential((shift - most) * scale[i]))));
            // A row that is -inf throughout is not a number, like its maximum's difference from itself.
            *out[i] = {most, V(1) / sum, logarithm(sum)};
        }
    }
    template <class F> KD_FN void normaliser(F f, V scale, kd_norm<V>& out) const {
        kd_norm<V>* norms[2] = {&out, 0};
        running<1>(f, {scale, scale}, norms, size);
    }
    template <class F> KD_FN void normalisers(F f, V scale, kd_norm<V>& out, kd_norm<V>& plain) const {
        kd_norm<V>* norms[2] = {&out, &plain};
        running<2>(f, {scale, V(1)}, norms, size);
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
        kd_norm<V>* norms[2] = {&out, 0};
        running<1>(f, {scale, scale}, norms, call.listed);
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
    int most, count;
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
    template <class F> KD_FN void normaliser(F f, V scale, kd_norm<V>& out) const {
        V top = f(0), sum = V(0);
        for (int j = 1; j < most; ++j) top = larger(f(j), top);
        for (int j = 0; j < most; ++j)
            sum = sum + select(V(j) < sizes, exponential((f(j) - top) * scale), V(0));
        out = {top, V(1) / sum, logarithm(sum)};
    }
    template <class F> KD_FN void normalisers(F f, V scale, kd_norm<V>& out, kd_norm<V>& plain) const {
        normaliser(f, scale, out);
        normaliser(f, V(1), plain);
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
        if (hot && asked.kind == KD_CE && !asked.hard) parts = kd_hot_row<false, false>(team, values);
        else if (hot && asked.kind == KD_CE) parts = kd_hot_row<false, true>(team, values);
        else if (hot && asked.kind == KD_KL && !asked.hard) parts = kd_hot_row<true, false>(team, values);
        else if (hot && asked.kind == KD_KL) parts = kd_hot_row<true, true>(team, values);
        else {
            kd_columns<V, kd_any, kd_any> plain(call, row, asked);
            parts = kd_any_row(plain, values, asked.kind, (int)call.tail);
        }
        A lanes[2][kd_lanes<V>::width];
        kd_lanes<V>::to(lanes[0], parts.soft);
        kd_lanes<V>::to(lanes[1], parts.hard);
        kd_answer<A>(asked, lanes[0][0], lanes[1][0], out);
    }
    kd_deliver(call, row, out, totals);
}

template <class V>
static void kd_short_rows(const kd_call& call, kd_int first, kd_int last, typename kd_lanes<V>::number scale,
                          kd_totals& totals) {
    typedef kd_lanes<V> lanes;
    typedef typename lanes::number A;
    enum { width = lanes::width };
    const A masked = -kd_constant<A>::infinity();
    kd_rows_in_lanes<V> team;
    team.wants_gradient = call.gradient != 0;
    team.count = (int)call.members;
    for (kd_int from = first; from < last; from += width) {
        int here = last - from < width ? (int)(last - from) : width, most = 1;
        kd_asked<A> asked[width];
        A z[KD_SHORT][width], v[KD_SHORT][width], numbers[8][width] = {}, parts[2][width] = {};
        bool flags[2][width] = {};
        bool kinds[KD_KINDS] = {}, taught = false;
        for (int lane = 0; lane < width; ++lane) {
            kd_asked<A>& row = asked[lane];
            if (lane < here) row = kd_ask<A>(call, from + lane, scale);
            else row.counts = row.soft = row.hard = false;
            if (!row.counts) {
                row.count = 1;
                row.temperature = A(1);
                row.label = -1;
                row.soft_gradient = row.hard_gradient = row.beta = A(0);
            } else {
                kinds[row.kind < 0 || row.kind >= KD_KINDS ? 0 : row.kind] = true;
            }
            taught |= row.soft;
            if (row.count > most) most = (int)row.count;
            numbers[0][lane] = A(1) / row.temperature;
            numbers[1][lane] = row.beta;
            numbers[2][lane] = row.soft_gradient;
            numbers[3][lane] = row.hard_gradient;
            numbers[4][lane] = (A)row.count;
            numbers[5][lane] = (A)row.label;
            flags[0][lane] = row.soft;
            flags[1][lane] = row.hard;
        }
        for (int lane = 0; lane < width; ++lane) {
            int size = (int)asked[lane].count;
            kd_int at = 0;
            if (asked[lane].counts)
                at = kd_place(from + lane, call.inner, call.student_outer, call.student_inner) + asked[lane].start;
            for (int j = 0; j < most; ++j)
                z[j][lane] = j >= size ? masked
                             : asked[lane].counts ? kd_read<A>(call.student, at + j, call.student_type, (kd_any*)0) : A(0);
        }
        for (int j = 0; j < most; ++j) team.student[j] = lanes::of(z[j]);
        for (int k = 0; taught && k < call.members; ++k) {
            A shares[width];
            for (int lane = 0; lane < width; ++lane) {
                bool read = asked[lane].soft;
                kd_int row = from + lane, at = 0;
                if (read) at = kd_place(row, call.inner, call.teacher_outer, call.teacher_inner) + k * call.teacher_member;
                for (int j = 0; j < most; ++j)
                    v[j][lane] = j >= (int)asked[lane].count ? masked
                                 : read ? kd_read<A>(call.teacher, at + j, call.teacher_type, (kd_any*)0) : A(0);
                shares[lane] = A(1) / A(call.members);
                if (read && call.shares && call.members > 1) {
                    const A* given = (const A*)call.shares + row * call.share_row;
                    A total = A(0);
                    for (int i = 0; i < call.members; ++i) total += given[i * call.share_member];
                    shares[lane] = given[k * call.share_member] / total;
                }
            }
            for (int j = 0; j < most; ++j) team.teacher[k][j] = lanes::of(v[j]);
            team.share_of[k] = lanes::of(shares);
        }
        team.most = most;
        team.sizes = lanes::of(numbers[4]);
        team.labels = lanes::of(numbers[5]);
        kd_row_values<V, typename lanes::mask> values = {
            lanes::of(numbers[0]), lanes::of(numbers[1]), lanes::of(numbers[2]), lanes::of(numbers[3]),
            lanes::of_flags(flags[0]), lanes::of_flags(flags[1]),
        };
        if (call.gradient)
            for (int lane = 0; lane < here; ++lane)
                if (call.count || !asked[lane].counts) kd_zeros(call, from + lane, 0, call.classes);

        for (int kind = 0; kind < KD_KINDS; ++kind) {
            if (!kinds[kind]) continue;
            kd_parts<V> both;
            bool hot = team.count == 1 && taught, hard = any(values.hard);
            if (hot && kind == KD_CE && !hard) both = kd_hot_row<false, false>(team, values);
            else if (hot && kind == KD_CE) both = kd_hot_row<false, true>(team, values);
            else both = kd_any_row(team, values, kind, KD_DENSE);
            A soft[width], hard_part[width];
            lanes::to(soft, both.soft);
            lanes::to(hard_part, both.hard);
            if (call.gradient)
                for (int j = 0; j < most; ++j) lanes::to(z[j], team.slopes[j]);
            for (int lane = 0; lane < here; ++lane) {
                kd_int row = from + lane;
                int own = asked[lane].kind < 0 || asked[lane].kind >= KD_KINDS ? 0 : asked[lane].kind;
                if (!asked[lane].counts || own != kind) continue;
                parts[0][lane] = soft[lane];
                parts[1][lane] = hard_part[lane];
                if (!call.gradient) continue;
                kd_int at = kd_place(row, call.inner, call.gradient_outer, call.gradient_inner) + asked[lane].start;
                for (int j = 0; j < (int)asked[lane].count; ++j)
                    kd_write<A>(call.gradient, at + j, z[j][lane], call.student_type, (kd_any*)0);
            }
        }
        for (int lane = 0; lane < here; ++lane) {
            A out[3];
            kd_answer<A>(asked[lane], parts[0][lane], parts[1][lane], out);
            kd_deliver(call, from + lane, out, totals);
        }
    }
}

template <class V>
static void kd_rows(const kd_call& call, kd_int first, kd_int last, typename kd_lanes<V>::number scale,
                    kd_totals& totals) {
    kd_int longest = call.count && call.width && call.width < call.classes ? call.width : call.classes;
    if (longest <= KD_SHORT && call.tail == KD_DENSE) return kd_short_rows<V>(call, first, last, scale, totals);
    bool alike = call.student_type == call.teacher_type;
    for (kd_int row = first; row < last; ++row) {
        if (alike && call.student_type == KD_FLOAT32) kd_one_row<V, float, float>(call, row, scale, totals);
        else if (alike && call.student_type == KD_BFLOAT16)
            kd_one_row<V, kd_bfloat16, kd_bfloat16>(call, row, scale, totals);
        else if (alike && call.student_type == KD_FLOAT16) kd_one_row<V, kd_half, kd_half>(call, row, scale, totals);
        else kd_one_row<V, kd_any, kd_any>(call, row, scale, totals);
    }
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

// The functions that soft_cross_entropy.cpp reaches by the name of the instruction set.
void rows(const kd_call& call, kd_int first, kd_int last, double scale, double (&out)[3]) {
    kd_totals totals = {0, 0, 0};
    if (call.student_type == KD_FLOAT64) kd_rows<double>(call, first, last, scale, totals);
    else kd_rows<kd_floats>(call, first, last, (float)scale, totals);
    out[0] = totals.loss;
    out[1] = totals.soft;
    out[2] = totals.hard;
}

void scaled(const kd_call& call, kd_int first, kd_int last, double factor) {
    if (call.student_type == KD_FLOAT64) kd_scaled<double>(call, first, last, factor);
    else kd_scaled<kd_floats>(call, first, last, kd_floats((float)factor));
}

}  // namespace KD_NAMESPACE
