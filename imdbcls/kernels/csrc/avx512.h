/* Vectors of sixteen numbers: bfloat16 in memory, float32 in registers (AVX-512 with bfloat16 conversions). */
#pragma once

typedef uint16_t bf16;
typedef bf16 element;
typedef __m512 f32x16;
typedef f32x16 f32s;
typedef __mmask16 lanes_mask;

enum { LANES = 16, STEP = 32 /* columns or rows of a block */ };

static inline int64_t round_up(int64_t count) { return (count + STEP - 1) / STEP * STEP; }

/* Return the mask of the valid lanes in a vector that starts at column `at` of a row of `width` columns. */
static inline __mmask16 lanes_at(int64_t at, int64_t width) {
    const int64_t left = width - at;
    return left >= LANES ? 0xFFFF : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

/* Return the same mask for a vector of 32 columns. */
static inline __mmask32 columns_at(int64_t at, int64_t width) {
    const int64_t left = width - at;
    return left >= STEP ? 0xFFFFFFFF : left <= 0 ? 0 : (1u << left) - 1;
}

static inline f32x16 widen(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* Lanes outside the mask read as zero; their memory is not accessed. */
static inline f32x16 load_bf16(const bf16 *source, __mmask16 lanes) {
    return widen(_mm256_maskz_loadu_epi16(lanes, source));
}

/* Round to nearest, ties to even. */
static inline void store_bf16(bf16 *target, __mmask16 lanes, f32x16 value) {
    _mm256_mask_storeu_epi16(target, lanes, (__m256i)_mm512_cvtneps_pbh(value));
}

static inline f32x16 load_f32(const float *source, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, source); }

static inline void store_f32(float *target, __mmask16 lanes, f32x16 value) {
    _mm512_mask_storeu_ps(target, lanes, value);
}

static inline void add_to(float *target, __mmask16 lanes, f32x16 value) {
    store_f32(target, lanes, _mm512_add_ps(load_f32(target, lanes), value));
}

static inline f32s load(const element *source, lanes_mask lanes) { return load_bf16(source, lanes); }

static inline void store(element *target, lanes_mask lanes, f32s value) { store_bf16(target, lanes, value); }

static inline f32x16 splat(float value) { return _mm512_set1_ps(value); }

/* Compute 2 to the power of x with a minimax polynomial on [0, 1) (from Lawson's algorithm). The relative error is
   below 3e-6, a thousandth of the rounding error of bfloat16. The result is zero for x far below -126. */
static inline f32x16 exp2_of(f32x16 x) {
    f32x16 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
    f32x16 power = splat(1.35341728e-2f);
    power = _mm512_fmadd_ps(power, fraction, splat(5.20114606e-2f));
    power = _mm512_fmadd_ps(power, fraction, splat(2.41442757e-1f));
    power = _mm512_fmadd_ps(power, fraction, splat(6.93003834e-1f));
    power = _mm512_fmadd_ps(power, fraction, splat(1.00000259f));
    return _mm512_scalef_ps(power, x); /* scalef uses only the integer part of x */
}

/* ---- Names in common with avx2.h --------------------------------------------------------------------------------- */

static inline f32s add(f32s a, f32s b) { return _mm512_add_ps(a, b); }
static inline f32s sub(f32s a, f32s b) { return _mm512_sub_ps(a, b); }
static inline f32s mul(f32s a, f32s b) { return _mm512_mul_ps(a, b); }
static inline f32s fmadd(f32s a, f32s b, f32s c) { return _mm512_fmadd_ps(a, b, c); }   /* a b + c */
static inline f32s fmsub(f32s a, f32s b, f32s c) { return _mm512_fmsub_ps(a, b, c); }   /* a b - c */
static inline f32s fnmadd(f32s a, f32s b, f32s c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
static inline f32s min_of(f32s a, f32s b) { return _mm512_min_ps(a, b); }               /* b if either is NaN */
static inline f32s max_of(f32s a, f32s b) { return _mm512_max_ps(a, b); }              /* b if either is NaN */
static inline float sum_of(f32s x) { return _mm512_reduce_add_ps(x); }

/* Compute 1 / x. The instruction gives fourteen correct bits; one step of Newton's method gives about twice as many. */
static inline f32s reciprocal(f32s x) {
    const f32s value = _mm512_rcp14_ps(x);
    return mul(value, fnmadd(x, value, splat(2)));
}

static inline f32s load_full(const float *source) { return _mm512_loadu_ps(source); }

/* Multiply or subtract in the lanes of the mask. The other lanes are zero. */
static inline f32s mul_where(lanes_mask lanes, f32s a, f32s b) { return _mm512_maskz_mul_ps(lanes, a, b); }
static inline f32s sub_where(lanes_mask lanes, f32s a, f32s b) { return _mm512_maskz_sub_ps(lanes, a, b); }

/* Integers in LANES / 2 lanes of 64 bits. */
typedef __m512i u64s;

static inline u64s splat_u64(uint64_t value) { return _mm512_set1_epi64((int64_t)value); }
static inline u64s even_lanes(void) { return _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14); }
static inline u64s add_u64(u64s a, u64s b) { return _mm512_add_epi64(a, b); }
static inline u64s product_of_lower_halves(u64s a, u64s b) { return _mm512_mul_epu32(a, b); }
static inline u64s upper_halves(u64s a) { return _mm512_srli_epi64(a, 32); }
static inline u64s xor_of(u64s a, u64s b, u64s c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }

/* Return the mask of the lanes whose number is at least `threshold`. The numbers alternate between the lower halves of
   `even` and of `odd`. */
static inline lanes_mask lanes_at_least(u64s even, u64s odd, uint32_t threshold) {
    const __m512i both = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    return _mm512_cmpge_epu32_mask(both, _mm512_set1_epi32((int)threshold));
}
