// Numbers: what row.cuh needs of a float or a double, and the four types of logits in memory.
//
// No includes, so that nvcc, NVRTC and host compilers read the same file. CPU vectors (cpu_vector.h) offer the same
// functions for many numbers at once. Everything lies in the namespace KD_NAMESPACE, one for each way of compiling, for
// a linker that merged functions of two instruction sets would pick one of them for both.
#ifndef KDTOOLKIT_NUMBER
#define KDTOOLKIT_NUMBER

#ifndef KD_NAMESPACE
#define KD_NAMESPACE kd
#endif
#ifdef __CUDACC__
#define KD_FN __device__ __forceinline__
#else
#define KD_FN inline __attribute__((always_inline))
#endif

namespace KD_NAMESPACE {

struct kd_half { unsigned short bits; };
struct kd_bfloat16 { unsigned short bits; };
struct kd_any {};  // one of the four, known at run time

KD_FN float kd_float_of(unsigned bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
#endif
}

KD_FN unsigned kd_bits_of(float value) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    unsigned bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
#endif
}

KD_FN float kd_widen(float value) { return value; }
KD_FN double kd_widen(double value) { return value; }
KD_FN float kd_widen(kd_bfloat16 value) { return kd_float_of((unsigned)value.bits << 16); }
KD_FN float kd_widen(kd_half value) {
#ifdef __CUDA_ARCH__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#else
    unsigned sign = (unsigned)(value.bits & 0x8000) << 16, exponent = (value.bits >> 10) & 31, rest = value.bits & 1023;
    if (exponent == 0) return kd_float_of(sign | kd_bits_of((float)rest * 5.9604644775390625e-8f));  // 2^-24
    if (exponent == 31) return kd_float_of(sign | 0x7f800000u | rest << 13);
    return kd_float_of(sign | (exponent + 112) << 23 | rest << 13);
#endif
}

// To the nearest, ties to even.
KD_FN void kd_narrow(float value, float& out) { out = value; }
KD_FN void kd_narrow(float value, double& out) { out = value; }
KD_FN void kd_narrow(double value, float& out) { out = (float)value; }
KD_FN void kd_narrow(double value, double& out) { out = value; }
KD_FN void kd_narrow(float value, kd_bfloat16& out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
#else
    unsigned bits = kd_bits_of(value);
    bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    out.bits = (unsigned short)(is_nan ? 0x7fc0 : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
#endif
}
KD_FN void kd_narrow(float value, kd_half& out) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
#else
    unsigned bits = kd_bits_of(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffffu, narrow;
    if (size > 0x7f800000u) narrow = 0x7e00;
    else if (size >= 0x477ff000u) narrow = 0x7c00;  // 65520 and above round to infinity
    else if (size < 0x38800000u) {                  // below 2^-14: a multiple of 2^-24, rounded by the addition
        float shifted = kd_float_of(size) + 0.5f;   // the last bit of 0.5f is 2^-24
        narrow = kd_bits_of(shifted) - 0x3f000000u;
    } else narrow = (size - 0x38000000u + 0xfffu + (size >> 13 & 1)) >> 13;
    out.bits = (unsigned short)(sign | narrow);
#endif
}
KD_FN void kd_narrow(double value, kd_bfloat16& out) { kd_narrow((float)value, out); }
KD_FN void kd_narrow(double value, kd_half& out) { kd_narrow((float)value, out); }

KD_FN kd_int kd_type_bytes(kd_int type) { return type == KD_FLOAT64 ? 8 : type == KD_FLOAT32 ? 4 : 2; }

// Element i of an array; the number type A is float or double.
template <class A, class S> KD_FN A kd_read(const void* data, kd_int i, kd_int, S*) {
    return (A)kd_widen(((const S*)data)[i]);
}
template <class A> KD_FN A kd_read(const void* data, kd_int i, kd_int type, kd_any*) {
    if (type == KD_FLOAT32) return (A)((const float*)data)[i];
    if (type == KD_BFLOAT16) return (A)kd_widen(((const kd_bfloat16*)data)[i]);
    if (type == KD_FLOAT16) return (A)kd_widen(((const kd_half*)data)[i]);
    return (A)((const double*)data)[i];
}
template <class A, class S> KD_FN void kd_write(void* data, kd_int i, A value, kd_int, S*) {
    kd_narrow(value, ((S*)data)[i]);
}
template <class A> KD_FN void kd_write(void* data, kd_int i, A value, kd_int type, kd_any*) {
    if (type == KD_FLOAT32) kd_narrow(value, ((float*)data)[i]);
    else if (type == KD_BFLOAT16) kd_narrow(value, ((kd_bfloat16*)data)[i]);
    else if (type == KD_FLOAT16) kd_narrow(value, ((kd_half*)data)[i]);
    else kd_narrow(value, ((double*)data)[i]);
}

template <class X> struct kd_constant;  // infinity, NaN, and up to where a series of six terms is exact to rounding
template <> struct kd_constant<float> {
    static KD_FN float infinity() { return kd_float_of(0x7f800000u); }
    static KD_FN float nan() { return kd_float_of(0x7fc00000u); }
    static KD_FN float small() { return 0.25f; }
};
template <> struct kd_constant<double> {
    static KD_FN double infinity() { return (double)kd_float_of(0x7f800000u); }
    static KD_FN double nan() { return (double)kd_float_of(0x7fc00000u); }
    static KD_FN double small() { return 0.002; }
};

#define KD_LOG2E 1.4426950408889634
#define KD_LN2 0.6931471805599453

KD_FN bool any(bool mask) { return mask; }
KD_FN float select(bool mask, float yes, float no) { return mask ? yes : no; }
KD_FN double select(bool mask, double yes, double no) { return mask ? yes : no; }
KD_FN float larger(float a, float b) { return a > b ? a : b; }
KD_FN double larger(double a, double b) { return a > b ? a : b; }

#ifdef __CUDA_ARCH__
KD_FN float absolute(float x) { return fabsf(x); }
KD_FN double absolute(double x) { return fabs(x); }
KD_FN float exponential(float x) {
    // 2^t, t = x log2 e, by the special function unit. The rounding of t alone would cost |x| * 6e-8; `rest` is what it
    // lost. Where t is infinite the rest is not a number, so it is left out far below every value that matters.
    float t = x * 1.44269504f, rest = fmaf(x, 1.44269504f, -t) + x * 1.92596303e-8f, power;
    asm("ex2.approx.f32 %0, %1;" : "=f"(power) : "f"(t));
    return x > -150.0f && x < 150.0f ? fmaf(power, rest * 0.693147181f, power) : power;
}
KD_FN double exponential(double x) { return exp(x); }
KD_FN float power_of_two(float x) {  // relative to the row's largest, the argument's rounding costs 3e-8 at most
    float power;
    asm("ex2.approx.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}
KD_FN double power_of_two(double x) { return exp2(x); }
KD_FN float logarithm(float x) { return logf(x); }
KD_FN double logarithm(double x) { return log(x); }
KD_FN float logarithm_1p(float x) { return log1pf(x); }
KD_FN double logarithm_1p(double x) { return log1p(x); }
#else
KD_FN float absolute(float x) { return __builtin_fabsf(x); }
KD_FN double absolute(double x) { return __builtin_fabs(x); }
KD_FN float exponential(float x) { return __builtin_expf(x); }
KD_FN double exponential(double x) { return __builtin_exp(x); }
KD_FN float power_of_two(float x) { return __builtin_exp2f(x); }
KD_FN double power_of_two(double x) { return __builtin_exp2(x); }
KD_FN float logarithm(float x) { return __builtin_logf(x); }
KD_FN double logarithm(double x) { return __builtin_log(x); }
KD_FN float logarithm_1p(float x) { return __builtin_log1pf(x); }
KD_FN double logarithm_1p(double x) { return __builtin_log1p(x); }
#endif

}  // namespace KD_NAMESPACE
#endif
