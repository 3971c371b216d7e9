// The C functions of the CPU library: looks at the values, cuts the rows among threads, chooses the instruction set.
//
// Threads are started for large calls only and end with the call: no pool whose spinning or forking could stall a small
// call, and no OpenMP runtime beside torch's.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define KD_NAMESPACE kd_entry
#include "call.cuh"
#include "number.cuh"
#include "row.cuh"

#define KD_VARIANT(name)                                                                       \
    namespace name {                                                                           \
    void rows(const kd_call& call, kd_int first, kd_int last, double scale, double (&out)[3]); \
    void scaled(const kd_call& call, kd_int first, kd_int last, double factor);                \
    kd_label_counts labels(const kd_call& call);                                               \
    }
KD_VARIANT(kd_portable)
#ifdef KD_WITH_AVX2
KD_VARIANT(kd_avx2)
#endif
#ifdef KD_WITH_AVX512
KD_VARIANT(kd_avx512)
#endif

#if defined(_WIN32)
#define KD_EXPORT extern "C" __declspec(dllexport)
#else
#define KD_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

using namespace kd_entry;

struct variant {
    const char* name;
    bool (*present)();
    void (*rows)(const kd_call&, kd_int, kd_int, double, double (&)[3]);
    void (*scaled)(const kd_call&, kd_int, kd_int, double);
    kd_label_counts (*labels)(const kd_call&);
};

const variant VARIANTS[] = {
#ifdef KD_WITH_AVX512
    {"avx512",
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2");
     },
     kd_avx512::rows, kd_avx512::scaled, kd_avx512::labels},
#endif
#ifdef KD_WITH_AVX2
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); },
     kd_avx2::rows, kd_avx2::scaled, kd_avx2::labels},
#endif
    {"portable", [] { return true; }, kd_portable::rows, kd_portable::scaled, kd_portable::labels},
};

const variant* best() {
    for (const variant& one : VARIANTS)
        if (one.present()) return &one;
    return nullptr;  // the last one always is
}

std::atomic<const variant*> in_use{nullptr};

const variant& chosen() {
    const variant* one = in_use.load(std::memory_order_relaxed);
    if (!one) in_use.store(one = best(), std::memory_order_relaxed);
    return *one;
}

const variant& variant_for(const kd_call& call) {  // float64 has no vectors here
    return call.student_type == KD_FLOAT64 ? VARIANTS[sizeof VARIANTS / sizeof *VARIANTS - 1] : chosen();
}

// Rows of one piece of work: the same for any number of threads, so that sums come out the same.
kd_int piece_of(const kd_call& call) {
    kd_int rows = (kd_int(1) << 16) / (call.classes < 1 ? 1 : call.classes);
    return rows < 1 ? 1 : rows < 16 ? rows : rows / 16 * 16;
}

// Calls work(piece, first row, one past the last row) for all pieces.
template <class F> void shared(const kd_call& call, F work) {
    kd_int step = piece_of(call), pieces = (call.rows + step - 1) / step;
    auto take = [&](kd_int piece) {
        kd_int first = piece * step, last = first + step < call.rows ? first + step : call.rows;
        work(piece, first, last);
    };
    kd_int large = call.rows * call.classes >> 18, threads = call.threads < large ? call.threads : large;
    if (threads > pieces) threads = pieces;
    if (threads > 64) threads = 64;
    if (threads < 2) {
        for (kd_int piece = 0; piece < pieces; ++piece) take(piece);
        return;
    }
    std::atomic<kd_int> next{0};
    auto run = [&] {
        for (kd_int piece; (piece = next.fetch_add(1)) < pieces;) take(piece);
    };
    std::thread others[64];
    kd_int started = 0;
    try {
        for (; started + 1 < threads; ++started) others[started] = std::thread(run);
    } catch (const std::system_error&) {  // no more threads to be had: those there are do the work
    }
    run();
    for (kd_int i = 0; i < started; ++i) others[i].join();
}

// Fresh memory of a large gradient is met for the first time here: in pages of 2 MiB there are 512 times fewer faults.
void wide_pages(const kd_call& call) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const std::uintptr_t wide = std::uintptr_t(1) << 21;
    kd_int outer = call.rows / (call.inner < 1 ? 1 : call.inner);
    kd_int span = outer > 1 ? outer * call.gradient_outer : call.rows * call.gradient_inner;
    kd_int bytes = span * kd_type_bytes(call.student_type);
    if (bytes < kd_int(1) << 22 || call.gradient == call.student) return;
    std::uintptr_t from = (reinterpret_cast<std::uintptr_t>(call.gradient) + wide - 1) / wide * wide;
    std::uintptr_t to = (reinterpret_cast<std::uintptr_t>(call.gradient) + bytes) / wide * wide;
    if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#else
    (void)call;
#endif
}

bool within(double value, double low, double high) { return value >= low && value <= high; }

template <class A> int wrong_list(const kd_call& call, kd_int row, kd_int count) {
    const kd_int* index = call.listed_index + row * call.listed;
    const A* value = static_cast<const A*>(call.listed_value) + row * call.listed;
    double sum = 0;
    for (kd_int b = 0; b < call.listed; ++b) {
        if (index[b] < 0 || index[b] >= count || (b > 0 && index[b] == index[b - 1])) return 1;
        double p = call.listed_is_log ? __builtin_exp(double(value[b])) : double(value[b]);
        if (p < 0) return 1;
        sum += p;
    }
    return sum > 1.01;  // not a number passes: the row may be one that is not read
}

template <class A> int wrong_value(const kd_call& call, kd_int row) {
    const double most = 1.7e308;
    kd_int count = call.classes;
    if (call.kinds && (call.kinds[row] < 0 || call.kinds[row] >= KD_KINDS)) return KD_BAD_KIND;
    kd_int kind = call.kinds ? call.kinds[row] : call.kind;
    double temperature = double(kd_of_row<A>(call.temperatures, call.temperature, row));
    double alpha = double(kd_of_row<A>(call.alphas, call.alpha, row)), weight = double(kd_of_row<A>(call.weights, call.weight, row));
    if (call.temperatures && !(temperature > 0 && temperature < most && A(temperature) < kd_constant<A>::infinity()))
        return KD_BAD_TEMPERATURE;
    if (call.alphas && !within(alpha, 0, 1)) return KD_BAD_ALPHA;
    if (call.betas) {
        double beta = double(static_cast<const A*>(call.betas)[row]);
        if (!(beta > 0 && beta < 1)) return KD_BAD_BETA;
    }
    if (call.weights && !(weight >= 0 && A(weight) < kd_constant<A>::infinity())) return KD_BAD_WEIGHT;
    if (call.start) {
        kd_int limit = call.members && call.width < call.classes ? call.width : call.classes;
        count = call.count[row];
        if (call.start[row] < 0 || count < 1 || count > limit || call.start[row] > call.classes - count)
            return KD_BAD_COLUMNS;
    }
    if (kind == KD_BCE && alpha != 0) return KD_BAD_BINARY;
    if (call.labels && alpha > 0 && weight > 0) {
        kd_int label = call.label_bytes == 8 ? static_cast<const kd_int*>(call.labels)[row]
                                             : static_cast<const int*>(call.labels)[row];
        if (label != call.ignore_index && (label < 0 || label >= count)) return KD_BAD_LABEL;
    }
    if (call.shares && (call.share_row || row == 0)) {
        double sum = 0;
        for (kd_int k = 0; k < call.members; ++k) {
            double share = double(static_cast<const A*>(call.shares)[k * call.share_member + row * call.share_row]);
            if (!(share >= 0 && A(share) < kd_constant<A>::infinity())) return KD_BAD_SHARES;
            sum += share;
        }
        if (!(sum > 0) && weight > 0 && alpha < 1) return KD_BAD_SHARES;
    }
    if (call.listed && wrong_list<A>(call, row, count)) return KD_BAD_LISTED;
    return KD_DONE;
}

bool nothing_to_check(const kd_call& call) {
    if (call.kinds || call.temperatures || call.alphas || call.betas || call.weights || call.start || call.shares || call.listed)
        return false;
    if (call.kind == KD_BCE && call.alpha != 0) return false;
    if (!call.labels || call.alpha <= 0 || call.weight <= 0) return true;
    return chosen().labels(call).outside == 0;
}

template <class A> double normaliser(const kd_call& call) {
    if (call.reduction != KD_MEAN) return 1;
    if (call.normalizer) return double(*static_cast<const A*>(call.normalizer));
    double total = 0;
    if (!call.weights && !call.alphas) {
        kd_int kept = call.rows;
        if (call.labels && call.ignore_row && call.alpha > 0)
            kept = chosen().labels(call).kept;
        total = double(A(call.weight)) * double(kept);
        return total == 0 ? 1 : total;
    }
    for (kd_int row = 0; row < call.rows; ++row) {
        A weight;
        bool labelled;
        kd_int label;
        if (kd_counts<A>(call, row, weight, labelled, label)) total += double(weight);
    }
    return total == 0 ? 1 : total;
}

template <class A> int computed(const kd_call& call) {
    if (call.check && !nothing_to_check(call))
        for (kd_int row = 0; row < call.rows; ++row)
            if (int code = wrong_value<A>(call, row)) {
                if (call.bad_row) *call.bad_row = row;
                return code;
            }
    if (call.gradient) wide_pages(call);
    double scale = 1 / normaliser<A>(call), totals[3] = {0, 0, 0};
    kd_int pieces = (call.rows + piece_of(call) - 1) / piece_of(call);
    double few[3 * 64];
    std::unique_ptr<double[]> many(pieces > 64 ? new double[3 * pieces] : nullptr);
    double* results = many ? many.get() : few;
    const variant& one = variant_for(call);
    shared(call, [&](kd_int piece, kd_int first, kd_int last) {
        double out[3];
        one.rows(call, first, last, scale, out);
        std::memcpy(results + 3 * piece, out, sizeof out);
    });
    for (kd_int piece = 0; piece < pieces; ++piece)
        for (int i = 0; i < 3; ++i) totals[i] += results[3 * piece + i];
    if (call.reduction == KD_EACH) return KD_DONE;
    void* const out[3] = {call.loss, call.soft, call.hard};
    for (int i = 0; i < 3; ++i)
        if (out[i]) *static_cast<A*>(out[i]) = A(totals[i] * scale);
    return KD_DONE;
}

}  // namespace

KD_EXPORT kd_int kd_call_size() { return sizeof(kd_call); }

KD_EXPORT const char* kd_instructions() { return chosen().name; }

// Tests and benchmarks: that instruction set. -1: this build or this processor does not have it.
KD_EXPORT int kd_limit_instructions(const char* name) {
    for (const variant& one : VARIANTS)
        if (std::strcmp(one.name, name) == 0 && one.present()) {
            in_use.store(&one, std::memory_order_relaxed);
            return 0;
        }
    return -1;
}

KD_EXPORT int kd_soft_cross_entropy(const kd_call* call) {
    if (call->size != kd_int(sizeof(kd_call))) return KD_BAD_VERSION;
    try {
        return call->student_type == KD_FLOAT64 ? computed<double>(*call) : computed<float>(*call);
    } catch (const std::bad_alloc&) {
        return KD_NO_MEMORY;
    }
}

KD_EXPORT int kd_scale(const kd_call* call) {
    if (call->size != kd_int(sizeof(kd_call))) return KD_BAD_VERSION;
    double factor = call->student_type == KD_FLOAT64 ? *static_cast<const double*>(call->grad_output)
                                                      : double(*static_cast<const float*>(call->grad_output));
    if (factor == 1 && call->student == call->gradient) return KD_DONE;
    if (call->student != call->gradient) wide_pages(*call);
    const variant& one = variant_for(*call);
    shared(*call, [&](kd_int, kd_int first, kd_int last) { one.scaled(*call, first, last, factor); });
    return KD_DONE;
}
