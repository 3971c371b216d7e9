// Vectors of floats with the functions that row.cuh asks of a number, for AVX-512, for AVX2, and of width 1.
//
// kd_lanes<X> says how many numbers an X holds and how they get in and out of memory.
#ifndef KDTOOLKIT_CPU_VECTOR
#define KDTOOLKIT_CPU_VECTOR

namespace KD_NAMESPACE {

template <class X> struct kd_lanes;

// One number: the portable build, and float64 everywhere.
template <class A> struct kd_lanes_of_one {
    enum { width = 1 };
    typedef A number;
    typedef bool mask;
    static KD_FN bool first(int n) { return n > 0; }
    static KD_FN bool only(kd_int lane) { return lane == 0; }
    template <class S> static KD_FN A load(const void* data, kd_int i, kd_int type, S* tag) {
        return kd_read<A>(data, i, type, tag);
    }
    template <class S> static KD_FN A load(const void* data, kd_int i, kd_int type, int, A, S* tag) {
        return kd_read<A>(data, i, type, tag);
    }
    template <class S> static KD_FN void store(void* data, kd_int i, kd_int type, A value, S* tag) {
        kd_write<A>(data, i, value, type, tag);
    }
    template <class S> static KD_FN void store(void* data, kd_int i, kd_int type, int, A value, S* tag) {
        kd_write<A>(data, i, value, type, tag);
    }
    static KD_FN A sum(A x) { return x; }
    static KD_FN A maximum(A x) { return x; }
    static KD_FN A of(const A* values) { return values[0]; }
    static KD_FN void to(A* values, A x) { values[0] = x; }
    static KD_FN bool of_flags(const bool* flags) { return flags[0]; }
};
template <> struct kd_lanes<float> : kd_lanes_of_one<float> {};
template <> struct kd_lanes<double> : kd_lanes_of_one<double> {};

#if defined(KD_AVX512) || defined(KD_AVX2)

#ifdef KD_AVX512
#define KD_OP(name) _mm512_##name
struct kd_vector_mask { __mmask16 bits; };
KD_FN kd_vector_mask operator&(kd_vector_mask a, kd_vector_mask b) { return {(__mmask16)(a.bits & b.bits)}; }
KD_FN bool any(kd_vector_mask mask) { return mask.bits != 0; }
typedef __m512 kd_register;
#else
#define KD_OP(name) _mm256_##name
struct kd_vector_mask { __m256 bits; };
KD_FN kd_vector_mask operator&(kd_vector_mask a, kd_vector_mask b) { return {_mm256_and_ps(a.bits, b.bits)}; }
KD_FN bool any(kd_vector_mask mask) { return _mm256_movemask_ps(mask.bits) != 0; }
typedef __m256 kd_register;
#endif

struct kd_vector {
    kd_register v;
    KD_FN kd_vector() {}
    KD_FN kd_vector(kd_register r) : v(r) {}
    KD_FN explicit kd_vector(float x) : v(KD_OP(set1_ps)(x)) {}
    KD_FN explicit kd_vector(double x) : v(KD_OP(set1_ps)((float)x)) {}
    KD_FN explicit kd_vector(int x) : v(KD_OP(set1_ps)((float)x)) {}
    KD_FN explicit kd_vector(kd_int x) : v(KD_OP(set1_ps)((float)x)) {}
};
KD_FN kd_vector operator+(kd_vector a, kd_vector b) { return KD_OP(add_ps)(a.v, b.v); }
KD_FN kd_vector operator-(kd_vector a, kd_vector b) { return KD_OP(sub_ps)(a.v, b.v); }
KD_FN kd_vector operator*(kd_vector a, kd_vector b) { return KD_OP(mul_ps)(a.v, b.v); }
KD_FN kd_vector operator/(kd_vector a, kd_vector b) { return KD_OP(div_ps)(a.v, b.v); }
KD_FN kd_vector operator-(kd_vector a) { return KD_OP(xor_ps)(a.v, KD_OP(set1_ps)(-0.0f)); }
KD_FN kd_vector fused(kd_vector a, kd_vector b, kd_vector c) { return KD_OP(fmadd_ps)(a.v, b.v, c.v); }
KD_FN kd_vector larger(kd_vector a, kd_vector b) { return KD_OP(max_ps)(a.v, b.v); }
KD_FN kd_vector absolute(kd_vector a) { return KD_OP(andnot_ps)(KD_OP(set1_ps)(-0.0f), a.v); }
KD_FN kd_vector bits(unsigned word) {
#ifdef KD_AVX512
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)word));
#else
    return _mm256_castsi256_ps(_mm256_set1_epi32((int)word));
#endif
}
template <> struct kd_constant<kd_vector> {
    static KD_FN kd_vector infinity() { return bits(0x7f800000u); }
    static KD_FN kd_vector nan() { return bits(0x7fc00000u); }
    static KD_FN kd_vector small() { return kd_vector(0.25f); }
};

#ifdef KD_AVX512
KD_FN kd_vector_mask operator<(kd_vector a, kd_vector b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
KD_FN kd_vector_mask operator==(kd_vector a, kd_vector b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
KD_FN kd_vector select(kd_vector_mask mask, kd_vector yes, kd_vector no) {
    return _mm512_mask_blend_ps(mask.bits, no.v, yes.v);
}
#else
KD_FN kd_vector_mask operator<(kd_vector a, kd_vector b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
KD_FN kd_vector_mask operator==(kd_vector a, kd_vector b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
KD_FN kd_vector select(kd_vector_mask mask, kd_vector yes, kd_vector no) {
    return _mm256_blendv_ps(no.v, yes.v, mask.bits);
}
#endif

// exp(x) = 2^n exp(r) with |r| <= log(2) / 2; exp(r) by the polynomial of degree 6 whose largest relative error there
// is least (4e-9, below a float's rounding). -inf gives exactly 0, and so does whatever is below the smallest float.
KD_FN kd_vector exponential(kd_vector x) {
    kd_register low = KD_OP(set1_ps)(-104.0f);
    kd_register kept = KD_OP(max_ps)(low, x.v);  // in this order: not a number stays so
#ifdef KD_AVX512
    kd_register n = _mm512_roundscale_ps(_mm512_mul_ps(kept, _mm512_set1_ps(1.44269504f)), 8);
#else
    kd_register n = _mm256_round_ps(_mm256_mul_ps(kept, _mm256_set1_ps(1.44269504f)), 8);
#endif
    kd_register r = KD_OP(fnmadd_ps)(n, KD_OP(set1_ps)(0.693145751953125f), kept);
    r = KD_OP(fnmadd_ps)(n, KD_OP(set1_ps)(1.42860677e-6f), r);
    kd_register sum = KD_OP(set1_ps)(0.00138146128f);
    sum = KD_OP(fmadd_ps)(sum, r, KD_OP(set1_ps)(0.00836871006f));
    sum = KD_OP(fmadd_ps)(sum, r, KD_OP(set1_ps)(0.041668389f));
    sum = KD_OP(fmadd_ps)(sum, r, KD_OP(set1_ps)(0.166665211f));
    sum = KD_OP(fmadd_ps)(sum, r, KD_OP(set1_ps)(0.49999994f));
    sum = KD_OP(fmadd_ps)(sum, r, KD_OP(set1_ps)(1.0f));
    sum = KD_OP(fmadd_ps)(sum, r, KD_OP(set1_ps)(1.0f));
#ifdef KD_AVX512
    return _mm512_scalef_ps(sum, n);
#else
    // 2^n as two factors, for n goes down to -150 where 2^n is no normal number.
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), other = _mm256_sub_epi32(whole, half);
    __m256i bias = _mm256_set1_epi32(127);
    __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(other, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(sum, first), second);
#endif
}

// 2^x = 2^n 2^f with f from 0 to 1, by the polynomial of degree 5 that is 1 at 0 and whose largest relative error is
// least (9e-8). Sums of such powers have the same error, so that probabilities keep less of it.
KD_FN kd_vector power_of_two(kd_vector x) {
#ifdef KD_AVX512
    kd_register f = _mm512_reduce_ps(x.v, 1);  // x - floor(x), and 0 for -inf
#else
    kd_register n = _mm256_floor_ps(x.v), f = _mm256_sub_ps(x.v, n);
#endif
    kd_register sum = KD_OP(set1_ps)(0.00186713005f);
    sum = KD_OP(fmadd_ps)(sum, f, KD_OP(set1_ps)(0.00901703071f));
    sum = KD_OP(fmadd_ps)(sum, f, KD_OP(set1_ps)(0.0557999127f));
    sum = KD_OP(fmadd_ps)(sum, f, KD_OP(set1_ps)(0.240164444f));
    sum = KD_OP(fmadd_ps)(sum, f, KD_OP(set1_ps)(0.693151295f));
    sum = KD_OP(fmadd_ps)(sum, f, KD_OP(set1_ps)(1.0f));
#ifdef KD_AVX512
    return _mm512_scalef_ps(sum, x.v);  // times 2^floor(x); 0 for -inf
#else
    // The exponent is added to that of the sum; where the result would be no normal number it is 0.
    __m256i shifted = _mm256_add_epi32(_mm256_castps_si256(sum), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
    __m256 gone = _mm256_cmp_ps(x.v, _mm256_set1_ps(-126.0f), _CMP_LT_OQ);
    return _mm256_andnot_ps(gone, _mm256_castsi256_ps(shifted));
#endif
}

// log(x) = e log 2 + log m, m from 0.75 to 1.5; log m = 2 artanh((m - 1) / (m + 1)) by its series.
KD_FN kd_vector logarithm(kd_vector x) {
#ifdef KD_AVX512
    kd_vector m = _mm512_getmant_ps(x.v, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
    kd_vector e = _mm512_getexp_ps(_mm512_div_ps(x.v, m.v));
#else
    kd_vector_mask tiny = x < kd_vector(1.17549435e-38f);
    kd_vector scaled = select(tiny, x * kd_vector(8388608.0f), x);
    __m256i word = _mm256_castps_si256(scaled.v);
    __m256i exponent = _mm256_srai_epi32(_mm256_sub_epi32(word, _mm256_set1_epi32(0x3f400000)), 23);
    kd_vector m = _mm256_castsi256_ps(_mm256_sub_epi32(word, _mm256_slli_epi32(exponent, 23)));
    kd_vector e = _mm256_cvtepi32_ps(exponent);
    e = select(tiny, e - kd_vector(23.0f), e);
#endif
    kd_vector f = m - kd_vector(1.0f), s = f / (f + kd_vector(2.0f)), q = s * s;
    kd_vector series = fused(q, kd_vector(0.181818182f), kd_vector(0.222222222f));
    series = fused(series, q, kd_vector(0.285714286f));
    series = fused(series, q, kd_vector(0.4f));
    series = fused(series, q, kd_vector(0.666666667f)) * q;
    // 2 s = f - s f, so that the large part of log m is f itself.
    kd_vector small = fused(s, series - f, f);
    kd_vector sum = fused(e, kd_vector(0.693145751953125f), fused(e, kd_vector(1.42860677e-6f), small));
    sum = select(x == kd_vector(0.0f), -kd_constant<kd_vector>::infinity(), sum);
    sum = select(x < kd_vector(0.0f), kd_constant<kd_vector>::nan(), sum);
    sum = select(x == kd_constant<kd_vector>::infinity(), x, sum);
    return select(x == x, sum, x);
}

KD_FN kd_vector logarithm_1p(kd_vector x) {  // for x >= 0: what 1 + x lost is made good by the ratio
    kd_vector one(1.0f), y = x + one, lost = y - one;
    return select(lost == kd_vector(0.0f), x, logarithm(y) * x / lost);
}

template <> struct kd_lanes<kd_vector> {
#ifdef KD_AVX512
    enum { width = 16 };
#else
    enum { width = 8 };
#endif
    typedef float number;
    typedef kd_vector_mask mask;

#ifdef KD_AVX512
    static KD_FN mask first(int n) { return {(__mmask16)((1u << n) - 1)}; }
    static KD_FN mask only(kd_int lane) { return {(__mmask16)((unsigned long long)lane < 16 ? 1u << lane : 0)}; }
    static KD_FN float sum(kd_vector x) { return _mm512_reduce_add_ps(x.v); }
    static KD_FN float maximum(kd_vector x) { return _mm512_reduce_max_ps(x.v); }
#else
    static KD_FN __m256i counting() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
    static KD_FN mask first(int n) {
        return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), counting()))};
    }
    static KD_FN mask only(kd_int lane) {
        int here = lane < 0 || lane > 7 ? -1 : (int)lane;
        return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_set1_epi32(here), counting()))};
    }
    static KD_FN float sum(kd_vector x) {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
    }
    static KD_FN float maximum(kd_vector x) {
        __m128 s = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
        s = _mm_max_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
    }
#endif
    static KD_FN kd_vector of(const float* values) { return KD_OP(loadu_ps)(values); }
    static KD_FN void to(float* values, kd_vector x) { KD_OP(storeu_ps)(values, x.v); }
    static KD_FN mask of_flags(const bool* flags) {
        float ones[width];
        for (int lane = 0; lane < width; ++lane) ones[lane] = flags[lane] ? 1.0f : 0.0f;
        return of(ones) == kd_vector(1.0f);
    }

    static KD_FN kd_vector load(const void* data, kd_int i, kd_int, float*) { return of((const float*)data + i); }
#ifdef KD_AVX512
    // A bfloat16 is the upper half of a float: one permutation puts 16 of them there, another takes them out.
    static KD_FN kd_vector widened(__m256i words) {
        const __m512i places = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0,
                                                7, 0, 6, 0, 5, 0, 4, 0, 3, 0, 2, 0, 1, 0, 0, 0);
        const __mmask32 upper = 0xaaaaaaaau;
        return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(upper, places, _mm512_castsi256_si512(words)));
    }
    static KD_FN __m256i narrowed(kd_vector x) {  // to the nearest, ties to even
        const __m512i places = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                                31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
        __m512i word = _mm512_castps_si512(x.v), up = _mm512_add_epi32(word, _mm512_set1_epi32(0x7fff));
        __mmask16 odd = _mm512_test_epi32_mask(word, _mm512_set1_epi32(0x10000));
        up = _mm512_mask_add_epi32(up, odd, word, _mm512_set1_epi32(0x8000));
        up = _mm512_mask_blend_epi32((x == x).bits, _mm512_set1_epi32(0x7fc00000), up);
        return _mm512_castsi512_si256(_mm512_permutexvar_epi16(places, up));
    }
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int, kd_bfloat16*) {
        return widened(_mm256_loadu_si256((const __m256i*)((const kd_bfloat16*)data + i)));
    }
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int, kd_half*) {
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)((const kd_half*)data + i)));
    }
    static KD_FN void store(void* data, kd_int i, kd_int, kd_vector x, kd_bfloat16*) {
        _mm256_storeu_si256((__m256i*)((kd_bfloat16*)data + i), narrowed(x));
    }
    static KD_FN void store(void* data, kd_int i, kd_int, kd_vector x, kd_half*) {
        _mm256_storeu_si256((__m256i*)((kd_half*)data + i), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
    }
#else
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int, kd_bfloat16*) {
        __m128i words = _mm_loadu_si128((const __m128i*)((const kd_bfloat16*)data + i));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
    }
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int, kd_half*) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)((const kd_half*)data + i)));
    }
    static KD_FN void store(void* data, kd_int i, kd_int, kd_vector x, kd_bfloat16*) {
        __m256i word = _mm256_castps_si256(x.v), last = _mm256_srli_epi32(word, 16);
        last = _mm256_and_si256(last, _mm256_set1_epi32(1));
        word = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(word, _mm256_set1_epi32(0x7fff)), last), 16);
        word = _mm256_blendv_epi8(_mm256_set1_epi32(0x7fc0), word, _mm256_castps_si256((x == x).bits));
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(word, word), 0x08);
        _mm_storeu_si128((__m128i*)((kd_bfloat16*)data + i), _mm256_castsi256_si128(packed));
    }
    static KD_FN void store(void* data, kd_int i, kd_int, kd_vector x, kd_half*) {
        _mm_storeu_si128((__m128i*)((kd_half*)data + i), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    static KD_FN void store(void* data, kd_int i, kd_int, kd_vector x, float*) { to((float*)data + i, x); }

    static KD_FN kd_vector load(const void* data, kd_int i, kd_int type, kd_any*) {
        if (type == KD_FLOAT32) return load(data, i, type, (float*)0);
        if (type == KD_BFLOAT16) return load(data, i, type, (kd_bfloat16*)0);
        if (type == KD_FLOAT16) return load(data, i, type, (kd_half*)0);
        float values[width];
        for (int lane = 0; lane < width; ++lane) values[lane] = (float)((const double*)data)[i + lane];
        return of(values);
    }
    static KD_FN void store(void* data, kd_int i, kd_int type, kd_vector x, kd_any*) {
        if (type == KD_FLOAT32) store(data, i, type, x, (float*)0);
        else if (type == KD_BFLOAT16) store(data, i, type, x, (kd_bfloat16*)0);
        else store(data, i, type, x, (kd_half*)0);
    }

    // The first n lanes alone; the others are `rest` and are not written.
    template <class S>
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int type, int n, kd_vector rest, S* tag) {
        float values[width];
        to(values, rest);
        for (int lane = 0; lane < n; ++lane) values[lane] = kd_read<float>(data, i + lane, type, tag);
        return of(values);
    }
    template <class S> static KD_FN void store(void* data, kd_int i, kd_int type, int n, kd_vector x, S* tag) {
        float values[width];
        to(values, x);
        for (int lane = 0; lane < n; ++lane) kd_write<float>(data, i + lane, values[lane], type, tag);
    }
#ifdef KD_AVX512
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int, int n, kd_vector rest, float*) {
        return _mm512_mask_loadu_ps(rest.v, first(n).bits, (const float*)data + i);
    }
    static KD_FN void store(void* data, kd_int i, kd_int, int n, kd_vector x, float*) {
        _mm512_mask_storeu_ps((float*)data + i, first(n).bits, x.v);
    }
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int, int n, kd_vector rest, kd_bfloat16*) {
        return select(first(n), widened(_mm256_maskz_loadu_epi16(first(n).bits, (const kd_bfloat16*)data + i)), rest);
    }
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int, int n, kd_vector rest, kd_half*) {
        __m256i words = _mm256_maskz_loadu_epi16(first(n).bits, (const kd_half*)data + i);
        return select(first(n), kd_vector(_mm512_cvtph_ps(words)), rest);
    }
    static KD_FN void store(void* data, kd_int i, kd_int, int n, kd_vector x, kd_bfloat16*) {
        _mm256_mask_storeu_epi16((kd_bfloat16*)data + i, first(n).bits, narrowed(x));
    }
#else
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int, int n, kd_vector rest, float*) {
        __m256i mask = _mm256_castps_si256(first(n).bits);
        return select(first(n), kd_vector(_mm256_maskload_ps((const float*)data + i, mask)), rest);
    }
    static KD_FN void store(void* data, kd_int i, kd_int, int n, kd_vector x, float*) {
        _mm256_maskstore_ps((float*)data + i, _mm256_castps_si256(first(n).bits), x.v);
    }
#endif
    static KD_FN kd_vector load(const void* data, kd_int i, kd_int type, int n, kd_vector rest, kd_any*) {
        if (type == KD_FLOAT32) return load(data, i, type, n, rest, (float*)0);
        if (type == KD_BFLOAT16) return load(data, i, type, n, rest, (kd_bfloat16*)0);
        if (type == KD_FLOAT16) return load(data, i, type, n, rest, (kd_half*)0);
        return load(data, i, type, n, rest, (double*)0);
    }
    static KD_FN void store(void* data, kd_int i, kd_int type, int n, kd_vector x, kd_any*) {
        if (type == KD_FLOAT32) store(data, i, type, n, x, (float*)0);
        else if (type == KD_BFLOAT16) store(data, i, type, n, x, (kd_bfloat16*)0);
        else store(data, i, type, n, x, (kd_half*)0);
    }
};

#endif

}  // namespace KD_NAMESPACE
#endif
