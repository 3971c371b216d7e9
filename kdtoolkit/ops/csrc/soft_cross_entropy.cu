// The op on a GPU: device code only. nvcc, NVRTC and (with the shim of tests/ops/shim) g++ compile this one file.
//
// Launches are made from Python (kdtoolkit/ops/cuda), which chooses kernel, grid and shared memory:
//
//   kd_group4, _group8, _group32       rows of at most so many columns: as many neighbouring threads, a column each
//   kd_warp, kd_block                  longer rows, 16 bytes at a time, by a warp or by all threads of a block. The row
//                                      is read twice; what fits in shared memory is read from there the second time
//   kd_any_group4, _group32, _block    any row and any option. The kernels above are for cross-entropy and KL of one
//                                      dense teacher of the student's type, with or without a hard part
//   kd_total                           sum of the weights of the rows that count, for a mean over very many rows
//   kd_scale                           gradient = student * grad_output
//
// A block takes row after row. What its rows add to the loss goes to row_results; the last block to finish adds these
// up, always in the same order, so that a call gives the same bits each time.
#include "call.cuh"
#include "number.cuh"
#include "row.cuh"

#ifndef KD_DYNAMIC_SHARED
#define KD_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace KD_NAMESPACE {

// 16 bytes of logits. What is put is put in order, from 0 on.
template <class S> struct alignas(16) kd_pack {
    enum { size = 16 / sizeof(S) };
    S values[size];
    KD_FN S get(int i) const { return values[i]; }
    KD_FN void put(int i, S value) { values[i] = value; }
};
template <class S> struct alignas(16) kd_pack_of_words {  // two to a register: the compiler would take one for each
    enum { size = 8 };
    unsigned words[4];
    KD_FN S get(int i) const { return {(unsigned short)(words[i / 2] >> i % 2 * 16)}; }
    KD_FN void put(int i, S value) {
        if (i % 2 == 0) words[i / 2] = value.bits;
        else words[i / 2] |= (unsigned)value.bits << 16;
    }
};
template <> struct kd_pack<kd_bfloat16> : kd_pack_of_words<kd_bfloat16> {};
template <> struct kd_pack<kd_half> : kd_pack_of_words<kd_half> {};

template <class S> KD_FN int kd_misaligned(const S* data, int pack) {  // elements since the last multiple of a pack
    return (int)((unsigned long long)data / sizeof(S) % (unsigned)pack);
}

// The columns from `column` on; those that are not of the row are -inf.
template <class S> KD_FN kd_pack<S> kd_load(const S* row, int size, int column, bool aligned) {
    enum { n = kd_pack<S>::size };
    if (aligned && column >= 0 && column + n <= size) return *(const kd_pack<S>*)(row + column);
    kd_pack<S> pack;
#pragma unroll
    for (int i = 0; i < n; ++i) {
        S value;
        kd_narrow(-kd_constant<float>::infinity(), value);
        if (column + i >= 0 && column + i < size) value = row[column + i];
        pack.put(i, value);
    }
    return pack;
}
template <class S> KD_FN void kd_store(S* row, int size, int column, bool aligned, const kd_pack<S>& pack) {
    enum { n = kd_pack<S>::size };
    if (aligned && column >= 0 && column + n <= size) {
        *(kd_pack<S>*)(row + column) = pack;
        return;
    }
#pragma unroll
    for (int i = 0; i < n; ++i)
        if (column + i >= 0 && column + i < size) row[column + i] = pack.get(i);
}

struct kd_join_sum {
    template <class A> KD_FN A operator()(A a, A b) const { return a + b; }
    template <class A> static KD_FN A nothing(A) { return A(0); }
};
struct kd_join_maximum {
    template <class A> KD_FN A operator()(A a, A b) const { return larger(a, b); }
    template <class A> static KD_FN A nothing(A) { return -kd_constant<A>::infinity(); }
};

// The threads that share a row: LANES neighbours in a warp. All of them get each result of a join, with the same bits,
// and none of them is past it while another has still to read what it reads before it.
template <int LANES> struct kd_lanes {
    enum { whole_block = 0 };
    KD_FN int index() const { return (int)threadIdx.x % LANES; }
    KD_FN int count() const { return LANES; }
    KD_FN int team() const { return (int)threadIdx.x / LANES; }  // number of this team among those of the block
    KD_FN int teams() const { return (int)blockDim.x / LANES; }
    KD_FN unsigned mask() const {
        return LANES == 32 ? 0xffffffffu : ((1u << (LANES & 31)) - 1) << ((int)threadIdx.x % 32 / LANES * LANES);
    }
    template <class Join, class A, int n> KD_FN void join(A (&x)[n]) {
        __syncwarp(mask());
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2)
#pragma unroll
            for (int i = 0; i < n; ++i) x[i] = Join()(x[i], __shfl_xor_sync(mask(), x[i], distance));
    }
};

// Shared memory of a block's sums.
struct kd_scratch {
    float floats[2][3][32];
    double doubles[2][3][32];
    double totals[3];  // of the rows that the whole block holds, kept by its first thread
    int last;
    KD_FN float (*of(int turn, float))[32] { return floats[turn]; }
    KD_FN double (*of(int turn, double))[32] { return doubles[turn]; }
};

// The threads that share a row: all of the block. Two halves of the scratch take turns, so that one barrier is enough.
struct kd_crew {
    enum { whole_block = 1 };
    kd_scratch& scratch;
    int turn;
    KD_FN kd_crew(kd_scratch& scratch_) : scratch(scratch_), turn(0) {}
    KD_FN int index() const { return (int)threadIdx.x; }
    KD_FN int count() const { return (int)blockDim.x; }
    KD_FN int team() const { return 0; }
    KD_FN int teams() const { return 1; }
    template <class Join, class A, int n> KD_FN void join(A (&x)[n]) {
        kd_lanes<32> warp;
        int lane = (int)threadIdx.x % 32, warps = (int)blockDim.x / 32;
        A(*slots)[32] = scratch.of(turn, A());
        warp.template join<Join>(x);
#pragma unroll
        for (int i = 0; i < n; ++i)
            if (lane == 0) slots[i][threadIdx.x / 32] = x[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < n; ++i) x[i] = lane < warps ? slots[i][lane] : Join::nothing(A());
        warp.template join<Join>(x);
        turn ^= 1;
    }
};

// The loss of the rows of a block. Every thread makes one, and the first thread of a team adds its row.
struct kd_totals {
    double sums[3];
    KD_FN kd_totals() : sums{0, 0, 0} {}
    template <class A> static KD_FN void add(const kd_call& call, kd_int row, const A (&out)[3], double* sums) {
        if (call.reduction != KD_EACH) {
            for (int i = 0; i < 3; ++i) sums[i] += (double)out[i];
            return;
        }
        if (call.loss) ((A*)call.loss)[row] = out[0];
        if (call.loss && call.soft) ((A*)call.soft)[row] = out[1];
        if (call.loss && call.hard) ((A*)call.hard)[row] = out[2];
    }

    // The sums of all blocks times `scale`, written by whichever block comes last.
    template <class A> KD_FN void finish(const kd_call& call, kd_crew& crew, double scale) {
        if (call.reduction == KD_EACH || !call.loss) return;
        double* blocks = (double*)call.row_results;
        crew.join<kd_join_sum>(sums);
        if (threadIdx.x == 0) {
            for (int i = 0; i < 3; ++i) blocks[3 * (kd_int)blockIdx.x + i] = sums[i];
            __threadfence();
            crew.scratch.last = atomicAdd(call.counter, 1) == (int)gridDim.x - 1;
        }
        __syncthreads();
        if (!crew.scratch.last) return;
        __threadfence();
        for (int i = 0; i < 3; ++i) sums[i] = 0;
        for (kd_int block = threadIdx.x; block < (kd_int)gridDim.x; block += blockDim.x)
            for (int i = 0; i < 3; ++i) sums[i] += ((const volatile double*)blocks)[3 * block + i];
        crew.join<kd_join_sum>(sums);
        if (threadIdx.x > 0) return;
        void* const out[3] = {call.loss, call.soft, call.hard};
        for (int i = 0; i < 3; ++i)
            if (out[i]) *(A*)out[i] = (A)(sums[i] * scale);
        *call.counter = 0;
    }
};

// The weights of the rows that count, as seen by the threads `first`, `first + step`, ...
template <class A> KD_FN double kd_weights(const kd_call& call, kd_int first, kd_int step) {
    double total = 0;
    for (kd_int row = first; row < call.rows; row += step) {
        A weight;
        bool labelled;
        kd_int label;
        if (kd_counts<A>(call, row, weight, labelled, label)) total += (double)weight;
    }
    return total;
}

// 1 / normaliser. Each block works it out for itself, in the same order.
template <class A> KD_FN double kd_scale_of(const kd_call& call, kd_crew& crew) {
    if (call.reduction != KD_MEAN) return 1;
    if (call.normalizer) return 1 / (double)*(const A*)call.normalizer;
    double total[1] = {(double)call.rows * (double)(A)call.weight};
    if (call.weights || (call.labels && call.ignore_row)) {
        total[0] = kd_weights<A>(call, threadIdx.x, blockDim.x);
        crew.join<kd_join_sum>(total);
    }
    return total[0] == 0 ? 1 : 1 / total[0];
}

// Zeros in the columns of the gradient that the row has no part in.
template <class A, class Threads> KD_FN void kd_zeros(const kd_call& call, kd_int row, const kd_asked<A>& asked,
                                                      const Threads& threads) {
    kd_int at = kd_place(row, call.inner, call.gradient_outer, call.gradient_inner);
    kd_int from = asked.counts ? asked.start : call.classes, to = asked.counts ? asked.start + asked.count : call.classes;
    for (kd_int j = threads.index(); j < from; j += threads.count())
        kd_write<A>(call.gradient, at + j, A(0), call.student_type, (kd_any*)0);
    for (kd_int j = to + threads.index(); j < call.classes; j += threads.count())
        kd_write<A>(call.gradient, at + j, A(0), call.student_type, (kd_any*)0);
}

// ---- Cross-entropy and KL of one dense teacher of the student's type ----

// Where one row lies in the three matrices.
template <class S> struct kd_row_memory {
    const S* student;
    const S* teacher;
    S* gradient;
    KD_FN kd_row_memory(const kd_call& call, kd_int row) {
        student = (const S*)call.student + kd_place(row, call.inner, call.student_outer, call.student_inner);
        teacher = (const S*)call.teacher + kd_place(row, call.inner, call.teacher_outer, call.teacher_inner);
        gradient = (S*)call.gradient + kd_place(row, call.inner, call.gradient_outer, call.gradient_inner);
    }
};

// A short row, one column for each of its threads.
template <class S, int LANES> struct kd_held {
    typedef float X;
    enum { sparse = 0, care = 0 };
    struct place {};

    kd_lanes<LANES> threads;
    kd_row_memory<S> memory;
    X student, teacher;
    bool inside, at_label, wants_gradient;

    KD_FN kd_held(const kd_call& call, kd_int row, const kd_asked<float>& asked) : memory(call, row) {
        int column = threads.index();
        inside = column < (int)asked.count;
        at_label = column == (int)asked.label;
        wants_gradient = call.gradient != 0;
        student = teacher = -kd_constant<X>::infinity();
        if (inside) student = kd_widen(memory.student[column]);
        if (inside && asked.soft) teacher = kd_widen(memory.teacher[column]);
    }
    KD_FN X z(place) const { return student; }
    KD_FN X v(place, int) const { return teacher; }
    KD_FN bool is_label(place) const { return at_label; }
    KD_FN X z_label() {  // from registers: whoever holds it may be about to store the gradient there
        X found[1];
        sum<1>([&](place, X (&terms)[1]) { terms[0] = select(at_label, student, X(0)); }, found);
        return found[0];
    }
    template <class F> KD_FN void normaliser(F f, X scale, kd_norm<X>& out) {
        X top[1] = {f(place())};
        threads.template join<kd_join_maximum>(top);
        X sum[1] = {power_of_two((f(place()) - top[0]) * (scale * X(KD_LOG2E)))};
        threads.template join<kd_join_sum>(sum);
        out = {top[0], X(1) / sum[0], logarithm(sum[0])};
    }
    template <class F> KD_FN void normalisers(F f, X scale, kd_norm<X>& out, kd_norm<X>& plain) {
        normaliser(f, scale, out);
        normaliser(f, X(1), plain);
    }
    template <int n, class F> KD_FN void sum(F f, X (&out)[n]) {
        f(place(), out);
#pragma unroll
        for (int t = 0; t < n; ++t) out[t] = select(inside, out[t], X(0));
        threads.template join<kd_join_sum>(out);
    }
    template <int n, class F> KD_FN void map(F f, X (&out)[n < 1 ? 1 : n]) {
        X slope = f(place(), out);
        if (inside && wants_gradient) kd_narrow(slope, memory.gradient[threads.index()]);
        if constexpr (n > 0) sum<n>([](place, X (&)[n]) {}, out);
    }
};

// A longer row, pack by pack, `ahead` of them at a time. The first `staged` packs of student and teacher stay in shared
// memory for the second reading; the rest is read again. A thread meets the same packs each time.
template <class S, class Threads> struct kd_streamed {
    typedef float X;
    enum { sparse = 0, care = Threads::whole_block ? 2 : 1, pack = kd_pack<S>::size, ahead = 2 };
    typedef kd_pack<S> packed;
    struct place { int column; X z, v; };

    Threads& threads;
    kd_row_memory<S> memory;
    packed* shared;
    int size, label, offset, packs, staged;
    bool wants_gradient, taught, teacher_aligned, gradient_aligned, again;
    X label_logit;

    KD_FN kd_streamed(const kd_call& call, kd_int row, const kd_asked<float>& asked, Threads& threads_, void* bytes,
                      int staged_)
        : threads(threads_), memory(call, row), staged(staged_) {
        shared = (packed*)bytes + 2 * staged * threads.team();
        size = (int)asked.count;
        label = (int)asked.label;
        wants_gradient = call.gradient != 0;
        taught = asked.soft;
        offset = kd_misaligned(memory.student, pack);
        packs = (size + offset + pack - 1) / pack;
        teacher_aligned = kd_misaligned(memory.teacher, pack) == offset;
        gradient_aligned = kd_misaligned(memory.gradient, pack) == offset;
        again = false;
        // Now, before any join: later, another thread may have stored the gradient there.
        label_logit = label < 0 ? X(0) : X(kd_widen(memory.student[label]));
    }
    KD_FN X z(place at) const { return at.z; }
    KD_FN X v(place at, int) const { return at.v; }
    KD_FN bool is_label(place at) const { return at.column == label; }
    KD_FN X z_label() const { return label_logit; }

    // Calls f(packs of z, packs of v, number of the first) for `many` packs at a time: all loads before any use.
    template <int many, class F> KD_FN void each(F f) {
        for (int k = threads.index(); k < packs; k += many * threads.count()) {
            packed z[many], v[many];
#pragma unroll
            for (int i = 0; i < many; ++i) {
                int own = k + i * threads.count(), column = own * pack - offset;
                if (again && own < staged) {
                    z[i] = shared[own];
                    if (taught) v[i] = shared[staged + own];
                } else {  // columns beyond the row are -inf
                    z[i] = kd_load<S>(memory.student, size, column, true);
                    if (taught) v[i] = kd_load<S>(memory.teacher, size, column, teacher_aligned);
                }
            }
            if (!again)
#pragma unroll
                for (int i = 0; i < many; ++i) {
                    int own = k + i * threads.count();
                    if (own >= staged) continue;
                    shared[own] = z[i];
                    if (taught) shared[staged + own] = v[i];
                }
            f(z, v, k);
        }
        again = true;
    }

    // Of a thread: the greatest so far, and the sum of exponentials against it; with HARD also that at temperature 1.
    template <int HARD> struct running {
        enum { n = HARD ? 2 : 1 };
        X binary, top, sums[n];
        KD_FN running(X scale) : binary(scale * X(KD_LOG2E)), top(-kd_constant<X>::infinity()) {
#pragma unroll
            for (int i = 0; i < n; ++i) sums[i] = X(0);
        }
        KD_FN X shift() const { return select(top == -kd_constant<X>::infinity(), X(0), top); }
        KD_FN void powers(X d, X (&terms)[n]) const {
            terms[0] = power_of_two(d * binary);
            if (HARD) terms[n - 1] = kd_plain_exponential<HARD>(terms[0], d);
        }
        KD_FN void add(const packed (&values)[ahead]) {
            X before = top, terms[n];
#pragma unroll
            for (int i = 0; i < ahead * pack; ++i) top = larger(kd_widen(values[i / pack].get(i % pack)), top);
            X from = shift();
            powers(before - from, terms);
#pragma unroll
            for (int s = 0; s < n; ++s) sums[s] = sums[s] * terms[s];
#pragma unroll
            for (int i = 0; i < ahead * pack; ++i) {
                powers(kd_widen(values[i / pack].get(i % pack)) - from, terms);
#pragma unroll
                for (int s = 0; s < n; ++s) sums[s] = sums[s] + terms[s];
            }
        }
        KD_FN void against(X most) {  // the sums as they are against the row's maximum
            X terms[n];
            powers(shift() - most, terms);
#pragma unroll
            for (int s = 0; s < n; ++s) sums[s] = sums[s] * select(top == -kd_constant<X>::infinity(), X(0), terms[s]);
        }
    };
    static KD_FN kd_norm<X> norm(X most, X sum) { return {most, X(1) / sum, logarithm(sum)}; }

    template <class F> KD_FN void normaliser(F, X scale, kd_norm<X>& out) {  // of the student: no other is asked for
        running<KD_NO_HARD> own(scale);
        each<ahead>([&](const packed (&z)[ahead], const packed (&)[ahead], int) { own.add(z); });
        X top[1] = {own.top};
        threads.template join<kd_join_maximum>(top);
        own.against(top[0]);
        threads.template join<kd_join_sum>(own.sums);
        out = norm(top[0], own.sums[0]);
    }
    // Both matrices in one reading.
    template <int HARD> KD_FN void both(X scale, kd_norm<X>& student, kd_norm<X>& plain, kd_norm<X>& teacher) {
        enum { n = HARD ? 2 : 1 };
        running<HARD> z(scale);
        running<KD_NO_HARD> v(scale);
        each<ahead>([&](const packed (&zs)[ahead], const packed (&vs)[ahead], int) {
            z.add(zs);
            v.add(vs);
        });
        X tops[2] = {z.top, v.top}, sums[n + 1];
        threads.template join<kd_join_maximum>(tops);
        z.against(tops[0]);
        v.against(tops[1]);
#pragma unroll
        for (int i = 0; i < n; ++i) sums[i] = z.sums[i];
        sums[n] = v.sums[0];
        threads.template join<kd_join_sum>(sums);
        student = norm(tops[0], sums[0]);
        if (HARD) plain = norm(tops[0], sums[n - 1]);
        teacher = norm(tops[1], sums[n]);
    }
    template <int n, class F> KD_FN void map(F f, X (&out)[n < 1 ? 1 : n]) {
        enum { many = n < 1 ? 1 : n };
#pragma unroll
        for (int t = 0; t < many; ++t) out[t] = X(0);
        each<1>([&](const packed (&z)[1], const packed (&v)[1], int k) {
            int first = k * pack - offset;
            packed slopes;
#pragma unroll
            for (int e = 0; e < pack; ++e) {
                place at = {first + e, kd_widen(z[0].get(e)), taught ? kd_widen(v[0].get(e)) : X(0)};
                X terms[many];
                S slope;
                kd_narrow(f(at, terms), slope);
                slopes.put(e, slope);
                bool inside = at.column >= 0 && at.column < size;
#pragma unroll
                for (int t = 0; t < n; ++t) out[t] = out[t] + select(inside, terms[t], X(0));
            }
            if (wants_gradient) kd_store<S>(memory.gradient, size, first, gradient_aligned, slopes);
        });
        if (n > 0) threads.template join<kd_join_sum>(out);
    }
};

template <int HARD, class S, class Threads, class X>
KD_FN void kd_hot_norms(kd_streamed<S, Threads>& team, X scale, kd_norm<X>& student, kd_norm<X>& plain, kd_norm<X>& teacher) {
    team.template both<HARD>(scale, student, plain, teacher);
}

template <class A> KD_FN kd_row_values<A, bool> kd_values_of(const kd_asked<A>& asked) {
    return {A(1) / asked.temperature, asked.beta, asked.soft_gradient, asked.hard_gradient, asked.soft, asked.hard};
}

// Whether there is a hard part, and whether its exponential is the square of the soft one's, is looked at where that saves
// more than it costs in code: Team::care.
template <bool KL, class Team>
KD_FN kd_parts<float> kd_softened(Team& team, const kd_row_values<float, bool>& row) {
    if constexpr (Team::care > 0)
        if (!row.hard) return kd_hot_row<KL, KD_NO_HARD>(team, row);
    if constexpr (Team::care > 1)
        if (row.scale == 0.5f) return kd_hot_row<KL, KD_HARD_AT_2>(team, row);
    kd_parts<float> parts = kd_hot_row<KL, KD_HARD>(team, row);
    return {parts.soft, row.hard ? parts.hard : 0.0f};
}

template <class Team> KD_FN kd_parts<float> kd_dispatched(Team& team, const kd_asked<float>& asked) {
    kd_row_values<float, bool> row = kd_values_of(asked);
    if (!asked.soft) return kd_hard_row(team, row);
    return asked.kind == KD_CE ? kd_softened<false>(team, row) : kd_softened<true>(team, row);
}

template <class S, int LANES> struct kd_held_rows {
    typedef float A;
    KD_FN kd_held_rows(int, void*) {}
    KD_FN kd_parts<float> operator()(const kd_call& call, kd_int row, const kd_asked<float>& asked, kd_lanes<LANES>&) const {
        kd_held<S, LANES> team(call, row, asked);
        return kd_dispatched(team, asked);
    }
};
template <class S, class Threads> struct kd_streamed_rows {
    typedef float A;
    int staged;
    void* shared;
    KD_FN kd_streamed_rows(int staged_, void* shared_) : staged(staged_), shared(shared_) {}
    KD_FN kd_parts<float> operator()(const kd_call& call, kd_int row, const kd_asked<float>& asked, Threads& threads) const {
        kd_streamed<S, Threads> team(call, row, asked, threads, shared, staged);
        return kd_dispatched(team, asked);
    }
};

// ---- Any row ----

// Reads a column where it lies, whenever it is asked for. Threads: kd_lanes or kd_crew.
template <class A, class Threads> struct kd_general {
    typedef A X;
    enum { sparse = 1 };
    struct place { kd_int j; };

    const kd_call& call;
    Threads& threads;
    kd_int size, label, row, student_at, gradient_at, teacher_at;
    A label_logit, shares;
    bool wants_gradient;

    KD_FN kd_general(const kd_call& call_, kd_int row_, const kd_asked<A>& asked, Threads& threads_)
        : call(call_), threads(threads_), row(row_) {
        size = asked.count;
        label = asked.label;
        wants_gradient = call.gradient != 0;
        student_at = kd_place(row, call.inner, call.student_outer, call.student_inner) + asked.start;
        gradient_at = kd_place(row, call.inner, call.gradient_outer, call.gradient_inner) + asked.start;
        teacher_at = kd_place(row, call.inner, call.teacher_outer, call.teacher_inner);
        shares = A(0);
        if (asked.soft && call.shares && call.members > 1)
            for (int k = 0; k < call.members; ++k) shares = shares + share_given(k);
        // Now, before any join: later, another thread may have stored the gradient there.
        label_logit = label < 0 ? A(0) : student(label);
    }
    KD_FN A share_given(int k) const {
        return ((const A*)call.shares)[k * call.share_member + row * call.share_row];
    }
    KD_FN A student(kd_int j) const { return kd_read<A>(call.student, student_at + j, call.student_type, (kd_any*)0); }

    KD_FN A z(place at) const { return student(at.j); }
    KD_FN A v(place at, int k) const {
        return kd_read<A>(call.teacher, teacher_at + k * call.teacher_member + at.j, call.teacher_type, (kd_any*)0);
    }
    KD_FN bool is_label(place at) const { return at.j == label; }
    KD_FN A z_label() const { return label_logit; }
    KD_FN A columns() const { return A(size); }
    KD_FN int members() const { return (int)call.members; }
    KD_FN A share(int k) const {
        if (call.members == 1) return A(1);
        return call.shares ? share_given(k) / shares : A(1) / A(call.members);
    }
    KD_FN void stored(kd_int j, A slope) const {
        kd_write<A>(call.gradient, gradient_at + j, slope, call.student_type, (kd_any*)0);
    }

    template <class F> KD_FN void each(kd_int n, F f) const {
        for (kd_int j = threads.index(); j < n; j += threads.count()) f(place{j});
    }
    template <class F> KD_FN void normed(kd_int n, F f, A scale, kd_norm<A>& out, kd_norm<A>& plain) {
        A top[1] = {-kd_constant<A>::infinity()}, sums[2] = {A(0), A(0)};
        each(n, [&](place at) { top[0] = larger(f(at), top[0]); });
        threads.template join<kd_join_maximum>(top);
        each(n, [&](place at) {
            A d = f(at) - top[0];
            sums[0] = sums[0] + exponential(d * scale);
            sums[1] = sums[1] + exponential(d);
        });
        threads.template join<kd_join_sum>(sums);
        out = {top[0], A(1) / sums[0], logarithm(sums[0])};
        plain = {top[0], A(1) / sums[1], logarithm(sums[1])};
    }
    template <class F> KD_FN void normaliser(F f, A scale, kd_norm<A>& out) {
        kd_norm<A> plain;
        normed(size, f, scale, out, plain);
    }
    template <class F> KD_FN void normalisers(F f, A scale, kd_norm<A>& out, kd_norm<A>& plain) {
        normed(size, f, scale, out, plain);
    }
    template <int n, class F> KD_FN void summed(kd_int many, F f, A (&out)[n]) {
        for (int i = 0; i < n; ++i) out[i] = A(0);
        each(many, [&](place at) {
            A terms[n];
            for (int i = 0; i < n; ++i) terms[i] = A(0);
            f(at, terms);
            for (int i = 0; i < n; ++i) out[i] = out[i] + terms[i];
        });
        threads.template join<kd_join_sum>(out);
    }
    template <int n, class F> KD_FN void sum(F f, A (&out)[n]) { summed<n>(size, f, out); }
    template <int n, class F> KD_FN void map(F f, A (&out)[n < 1 ? 1 : n]) {
        enum { many = n < 1 ? 1 : n };
        summed<many>(size, [&](place at, A (&terms)[many]) {
            A slope = f(at, terms);
            if (wants_gradient) stored(at.j, slope);
        }, out);
    }

    // The list of a sparse teacher. Nobody looked at its classes: one that the row does not have makes it not a number.
    KD_FN kd_int listed() const { return call.listed; }
    KD_FN kd_int index(place b) const { return call.listed_index[row * call.listed + b.j]; }
    KD_FN bool is_class(kd_int j) const { return j >= 0 && j < size; }
    KD_FN A listed_z(place b) const { return is_class(index(b)) ? student(index(b)) : kd_constant<A>::nan(); }
    KD_FN A listed_log(place b) const {
        A value = ((const A*)call.listed_value)[row * call.listed + b.j];
        return call.listed_is_log ? value : logarithm(value);
    }
    KD_FN bool listed_is_label(place b) const { return index(b) == label; }
    KD_FN bool is_listed(kd_int j) const {
        kd_int from = 0, to = call.listed;
        while (from < to) {
            kd_int middle = (from + to) / 2;
            if (index(place{middle}) < j) from = middle + 1;
            else to = middle;
        }
        return from < call.listed && index(place{from}) == j;
    }
    template <class F> KD_FN void listed_normaliser(F f, A scale, kd_norm<A>& out) {
        kd_norm<A> plain;
        normed(call.listed, f, scale, out, plain);
    }
    template <int n, class F> KD_FN void listed_sum(F f, A (&out)[n]) { summed<n>(call.listed, f, out); }
    template <int n, class F> KD_FN void unlisted_sum(F f, A (&out)[n]) {
        summed<n>(size, [&](place at, A (&terms)[n]) {
            if (!is_listed(at.j)) f(at, terms);
        }, out);
    }
    template <class F> KD_FN void unlisted_map(F f) const {
        each(size, [&](place at) {
            if (!is_listed(at.j)) stored(at.j, f(at));
        });
    }
    template <class F> KD_FN void listed_map(F f) const {
        each(call.listed, [&](place b) {
            A slope = f(b);
            if (is_class(index(b))) stored(index(b), slope);
        });
    }
};

template <class A_, class Threads> struct kd_general_rows {
    typedef A_ A;
    KD_FN kd_general_rows(int, void*) {}
    KD_FN kd_parts<A> operator()(const kd_call& call, kd_int row, const kd_asked<A>& asked, Threads& threads) const {
        kd_general<A, Threads> team(call, row, asked, threads);
        kd_row_values<A, bool> values = kd_values_of(asked);
        return kd_any_row(team, values, asked.kind, (int)call.tail);
    }
};

// ---- All rows, by teams of threads ----

template <class Rows, class Threads>
KD_FN void kd_all_rows(const kd_call& call, const Rows& rows, kd_crew& crew, Threads& threads) {
    typedef typename Rows::A A;
    kd_totals own;
    double* totals = own.sums;
    if (Threads::whole_block) {  // in shared memory, for registers are scarce there
        totals = crew.scratch.totals;
        if (threadIdx.x == 0) totals[0] = totals[1] = totals[2] = 0;
    }
    const A scale = (A)kd_scale_of<A>(call, crew);
    const kd_int step = (kd_int)gridDim.x * threads.teams();
    for (kd_int row = (kd_int)blockIdx.x * threads.teams() + threads.team(); row < call.rows; row += step) {
        kd_asked<A> asked = kd_ask<A>(call, row, scale);
        if (call.gradient && (call.start || !asked.counts)) kd_zeros<A>(call, row, asked, threads);
        kd_parts<A> parts = {A(0), A(0)};
        if (asked.counts) parts = rows(call, row, asked, threads);
        if (threads.index() > 0) continue;
        A out[3];
        kd_answer<A>(kd_ask<A>(call, row, scale), parts.soft, parts.hard, out);  // asked again rather than kept
        kd_totals::add<A>(call, row, out, totals);
    }
    if (Threads::whole_block && threadIdx.x == 0)
        for (int i = 0; i < 3; ++i) own.sums[i] = totals[i];
    own.finish<A>(call, crew, (double)scale);
}

// ---- The two small kernels ----

// To call.loss: the sum of the weights of the rows that count, or 1 if that is 0.
template <class A> KD_FN void kd_total_weight(const kd_call& call, kd_crew& crew) {
    kd_totals totals;
    totals.sums[0] = kd_weights<A>(call, (kd_int)blockIdx.x * blockDim.x + threadIdx.x, (kd_int)gridDim.x * blockDim.x);
    totals.finish<A>(call, crew, 1);
    if (threadIdx.x == 0 && crew.scratch.last && *(A*)call.loss == A(0)) *(A*)call.loss = A(1);
}

// gradient = student * grad_output, one number; nothing to do where that is 1 and both are the same memory.
template <class A, class S> KD_FN void kd_scaled(const kd_call& call) {
    enum { pack = kd_pack<S>::size };
    const A factor = *(const A*)call.grad_output;
    if (factor == A(1) && call.student == call.gradient) return;
    const kd_int apart = (call.classes + 2 * pack - 2) / pack;  // packs that a row may touch
    const kd_int step = (kd_int)gridDim.x * blockDim.x;
    for (kd_int k = (kd_int)blockIdx.x * blockDim.x + threadIdx.x; k < call.rows * apart; k += step) {
        kd_int row = k / apart;
        kd_row_memory<S> memory(call, row);
        int offset = kd_misaligned(memory.student, pack);
        kd_int column = k % apart * pack - offset;
        // Sizes of a pack are ints, rows of one matrix made one row may be longer.
        kd_int from = column < 0 ? 0 : column, left = call.classes - from;
        if (left <= 0) continue;
        int size = left < pack ? (int)left : (int)pack, at = (int)(column - from);
        if (column < 0 && size > pack + at) size = pack + at;
        bool aligned = kd_misaligned(memory.gradient, pack) == offset;
        kd_pack<S> values = kd_load<S>(memory.student + from, size, at, true), scaled;
#pragma unroll
        for (int i = 0; i < pack; ++i) {
            S value;
            kd_narrow((A)kd_widen(values.get(i)) * factor, value);
            scaled.put(i, value);
        }
        kd_store<S>(memory.gradient + from, size, at, aligned, scaled);
    }
}

}  // namespace KD_NAMESPACE

// Names as Python asks for them. `staged` is of use to kd_warp and kd_block alone, but all have the same parameters.
#define KD_KERNEL(name, threads, blocks, body)                                                                 \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const kd_call call, const int staged) { \
        using namespace KD_NAMESPACE;                                                                          \
        __shared__ kd_scratch scratch;                                                                         \
        kd_crew crew(scratch);                                                                                 \
        (void)staged;                                                                                          \
        body;                                                                                                  \
    }
#define KD_GROUPS(name, blocks, LANES, ...) \
    KD_KERNEL(name, 128, blocks, kd_lanes<LANES> threads; kd_all_rows(call, __VA_ARGS__(0, 0), crew, threads))
#define KD_FAST(type, S)                                                                               \
    KD_GROUPS(kd_group4_##type, 8, 4, kd_held_rows<S, 4>)                                              \
    KD_GROUPS(kd_group8_##type, 8, 8, kd_held_rows<S, 8>)                                              \
    KD_GROUPS(kd_group32_##type, 8, 32, kd_held_rows<S, 32>)                                           \
    KD_KERNEL(kd_warp_##type, 128, 6, {                                                                \
        KD_DYNAMIC_SHARED(bytes);                                                                      \
        kd_lanes<32> threads;                                                                          \
        kd_all_rows(call, kd_streamed_rows<S, kd_lanes<32>>(staged, bytes), crew, threads);            \
    })                                                                                                 \
    KD_KERNEL(kd_block_##type, 768, 1, {                                                               \
        KD_DYNAMIC_SHARED(bytes);                                                                      \
        kd_all_rows(call, kd_streamed_rows<S, kd_crew>(staged, bytes), crew, crew);                    \
    })
#define KD_GENERAL(type, A)                                                                            \
    KD_GROUPS(kd_any_group4_##type, 2, 4, kd_general_rows<A, kd_lanes<4>>)                             \
    KD_GROUPS(kd_any_group32_##type, 2, 32, kd_general_rows<A, kd_lanes<32>>)                          \
    KD_KERNEL(kd_any_block_##type, 256, 1, kd_all_rows(call, kd_general_rows<A, kd_crew>(0, 0), crew, crew))
#define KD_SCALE(type, A, S) \
    extern "C" __global__ void __launch_bounds__(256) kd_scale_##type(const kd_call call, const int staged) { \
        (void)staged;                                                                                         \
        KD_NAMESPACE::kd_scaled<A, S>(call);                                                                  \
    }
#define KD_SMALL(type, A, S) \
    KD_KERNEL(kd_total_##type, 256, 1, kd_total_weight<A>(call, crew)) \
    KD_SCALE(type, A, S)

// A compiler at run time makes one part when it is first asked for; one ahead of time makes all of them (0).
#ifndef KD_PART
#define KD_PART 0
#endif
#if KD_PART == 0 || KD_PART == 1
KD_SMALL(float32, float, float)
KD_SMALL(float64, double, double)
KD_SCALE(bfloat16, float, KD_NAMESPACE::kd_bfloat16)
KD_SCALE(float16, float, KD_NAMESPACE::kd_half)
#endif
#if KD_PART == 0 || KD_PART == 2
KD_FAST(float32, float)
#endif
#if KD_PART == 0 || KD_PART == 3
KD_FAST(bfloat16, kd_bfloat16)
#endif
#if KD_PART == 0 || KD_PART == 4
KD_FAST(float16, kd_half)
#endif
#if KD_PART == 0 || KD_PART == 5
KD_GENERAL(float32, float)
#endif
#if KD_PART == 0 || KD_PART == 6
KD_GENERAL(float64, double)
#endif
