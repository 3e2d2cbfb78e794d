/* Vectors of eight numbers: float32 in memory and in registers (AVX2 with FMA). This header defines the names that it
   has in common with avx512.h, and a few more. */
#pragma once

typedef float element;
typedef __m256 f32s;
typedef uint32_t lanes_mask; /* one bit per lane; higher bits are ignored */

enum { LANES = 8, ALL_LANES = 0xFF };

/* Return the mask of the valid lanes in a vector that starts at column `at` of a row of `width` columns. */
static inline lanes_mask lanes_at(int64_t at, int64_t width) {
    const int64_t left = width - at;
    return left >= LANES ? ALL_LANES : left <= 0 ? 0 : (1u << left) - 1;
}

static inline __m256i spread(lanes_mask lanes) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)lanes), bit), bit);
}

static inline f32s splat(float value) { return _mm256_set1_ps(value); }
static inline f32s add(f32s a, f32s b) { return _mm256_add_ps(a, b); }
static inline f32s sub(f32s a, f32s b) { return _mm256_sub_ps(a, b); }
static inline f32s mul(f32s a, f32s b) { return _mm256_mul_ps(a, b); }
static inline f32s fmadd(f32s a, f32s b, f32s c) { return _mm256_fmadd_ps(a, b, c); }   /* a b + c */
static inline f32s fmsub(f32s a, f32s b, f32s c) { return _mm256_fmsub_ps(a, b, c); }   /* a b - c */
static inline f32s fnmadd(f32s a, f32s b, f32s c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a b */
static inline f32s min_of(f32s a, f32s b) { return _mm256_min_ps(a, b); }               /* b if either is NaN */
static inline f32s max_of(f32s a, f32s b) { return _mm256_max_ps(a, b); }              /* b if either is NaN */
static inline f32s reciprocal(f32s x) { return _mm256_div_ps(splat(1), x); }
static inline f32s magnitude_of(f32s x) { return _mm256_andnot_ps(splat(-0.0f), x); }
static inline f32s choose_by_sign(f32s x, f32s negative, f32s other) { return _mm256_blendv_ps(other, negative, x); }

static inline float sum_of(f32s x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

static inline float largest_of(f32s x) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* Multiply or subtract in the lanes of the mask. The other lanes are zero. */
static inline f32s mul_where(lanes_mask lanes, f32s a, f32s b) {
    return _mm256_and_ps(_mm256_castsi256_ps(spread(lanes)), mul(a, b));
}
static inline f32s sub_where(lanes_mask lanes, f32s a, f32s b) {
    return _mm256_and_ps(_mm256_castsi256_ps(spread(lanes)), sub(a, b));
}

static inline f32s load_full(const float *source) { return _mm256_loadu_ps(source); }

/* Lanes outside the mask read as zero; their memory is not accessed. */
static inline f32s load_f32(const float *source, lanes_mask lanes) {
    return lanes == ALL_LANES ? _mm256_loadu_ps(source) : _mm256_maskload_ps(source, spread(lanes));
}

static inline void store_f32(float *target, lanes_mask lanes, f32s value) {
    if (lanes == ALL_LANES)
        _mm256_storeu_ps(target, value);
    else
        _mm256_maskstore_ps(target, spread(lanes), value);
}

static inline f32s load(const element *source, lanes_mask lanes) { return load_f32(source, lanes); }

static inline void store(element *target, lanes_mask lanes, f32s value) { store_f32(target, lanes, value); }

static inline void add_to(float *target, lanes_mask lanes, f32s value) {
    store_f32(target, lanes, add(load_f32(target, lanes), value));
}

/* Compute 2 to the power of x, for x up to 127, with a minimax polynomial on [-0.5, 0.5] (from Lawson's algorithm). The
   relative error is below 2e-7. The result is zero for x below -126, and NaN for NaN. */
static inline f32s exp2_of(f32s x) {
    const f32s is_normal = _mm256_cmp_ps(x, splat(-126), _CMP_NLT_UQ);
    x = _mm256_max_ps(splat(-126), x);
    const f32s integer = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), fraction = sub(x, integer);
    f32s power = splat(1.53458124e-4f);
    power = fmadd(power, fraction, splat(1.33999309e-3f));
    power = fmadd(power, fraction, splat(9.61848907e-3f));
    power = fmadd(power, fraction, splat(5.55032864e-2f));
    power = fmadd(power, fraction, splat(2.40226462e-1f));
    power = fmadd(power, fraction, splat(6.93147182e-1f));
    power = fmadd(power, fraction, splat(1));
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(integer), 23);
    return _mm256_and_ps(is_normal, _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(power), exponent)));
}

/* Integers in LANES / 2 lanes of 64 bits. */
typedef __m256i u64s;

static inline u64s splat_u64(uint64_t value) { return _mm256_set1_epi64x((int64_t)value); }
static inline u64s even_lanes(void) { return _mm256_setr_epi64x(0, 2, 4, 6); }
static inline u64s add_u64(u64s a, u64s b) { return _mm256_add_epi64(a, b); }
static inline u64s product_of_lower_halves(u64s a, u64s b) { return _mm256_mul_epu32(a, b); }
static inline u64s upper_halves(u64s a) { return _mm256_srli_epi64(a, 32); }
static inline u64s xor_of(u64s a, u64s b, u64s c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }

/* Return the mask of the lanes whose number is at least `threshold`. The numbers alternate between the lower halves of
   `even` and of `odd`. */
static inline lanes_mask lanes_at_least(u64s even, u64s odd, uint32_t threshold) {
    const __m256i both = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    const __m256i least = _mm256_set1_epi32((int)threshold);
    return (lanes_mask)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(both, least), both)));
}
