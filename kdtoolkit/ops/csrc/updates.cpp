// The C functions of updates.h, in the instruction set that the library has chosen (kd_instructions).
#include <new>

#include "updates.h"

KD_UPDATES(kd_portable)
#ifdef KD_WITH_AVX2
KD_UPDATES(kd_avx2)
#endif
#ifdef KD_WITH_AVX512
KD_UPDATES(kd_avx512)
#endif

#if defined(_WIN32)
#define KD_EXPORT extern "C" __declspec(dllexport)
#else
#define KD_EXPORT extern "C" __attribute__((visibility("default")))
#endif

extern "C" const char* kd_instructions();

namespace {

// 5: AVX-512, 2: AVX2, 0: portable, by the fourth letter of "avx512", "avx2" and the like.
char chosen() {
    const char* name = kd_instructions();
    return name[0] == 'a' ? name[3] : '0';
}

}  // namespace

#ifdef KD_WITH_AVX512
#define KD_IN_AVX512(call) \
    if (chosen() == '5') return kd_avx512::call;
#else
#define KD_IN_AVX512(call)
#endif
#ifdef KD_WITH_AVX2
#define KD_IN_AVX2(call) \
    if (chosen() == '2') return kd_avx2::call;
#else
#define KD_IN_AVX2(call)
#endif
#define KD_BY(call) KD_IN_AVX512(call) KD_IN_AVX2(call) return kd_portable::call

KD_EXPORT kd_int kd_table_size() { return sizeof(kd_table); }

KD_EXPORT void kd_bring_rows(const kd_table* table, const kd_int* rows, kd_int count) { KD_BY(bring_rows(*table, rows, count)); }

KD_EXPORT void kd_update_rows(const kd_table* table, const kd_int* numbers, const void* slopes, kd_int count, double rate, double root,
                              double kept) {
    const kd_rows gradient = {numbers, slopes, count};
    KD_BY(update_rows(*table, gradient, rate, root, kept));
}

// The rows of all parts times `factor`, those of one number added up in their order, by number; how many there are.
// numbers, out: with room for the rows of all parts. -1: no memory.
KD_EXPORT kd_int kd_merge_rows(const kd_rows* parts, kd_int count, kd_int type, kd_int width, double factor, kd_int* numbers, void* out) {
    try {
        KD_BY(merge_rows(parts, count, type, width, factor, numbers, out));
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

// All pieces, one after the other.
KD_EXPORT void kd_gather(const kd_piece* pieces, kd_int count, kd_int type, void* out) { KD_BY(gather(pieces, count, type, out)); }

// Each piece becomes the mean of what two or more processes have gathered in its place, to the same bits for all of them;
// one that is null is left out. The sum of the squares of all.
KD_EXPORT double kd_average(const kd_piece* pieces, kd_int count, const void* const* parts, kd_int processes, kd_int type) {
    KD_BY(average(pieces, count, parts, processes, type));
}

KD_EXPORT double kd_squares(const kd_piece* pieces, kd_int count, kd_int type) { KD_BY(squares(pieces, count, type)); }

KD_EXPORT void kd_multiply(const kd_piece* pieces, kd_int count, kd_int type, double factor) {
    KD_BY(multiply(pieces, count, type, factor));
}

KD_EXPORT void kd_adamw(const kd_parameter* all, kd_int count, kd_int type, double beta1, double beta2, double epsilon) {
    KD_BY(adamw(all, count, type, beta1, beta2, epsilon));
}
