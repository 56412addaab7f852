/* Sixteen lanes, as each instruction set has them: the words that compute.h is written in, once.
 *
 * Law: every operation here gives the same bits on every instruction set. Integers are exact; floats are IEEE 754
 * single, each operation rounded once, multiply-add fused only where vf_fma says so (-ffp-contract=off), and sums over
 * lanes go 16 -> 8 -> 4 -> 2 -> 1, upper half onto lower half.
 *
 * vf: 16 floats; vi: 16 int32; vb: 64 bytes, four to each of 16 lanes.
 */
#ifndef SLIPSTREAM_LANES_H
#define SLIPSTREAM_LANES_H

#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) /* checked code is large enough as it is */
#define INLINE static inline
#else
#define INLINE static inline __attribute__((always_inline))
#endif

INLINE float bits_to_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE uint32_t float_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

INLINE uint16_t load_u16(const void *p)
{
    uint16_t value;
    memcpy(&value, p, 2);
    return value;
}

INLINE uint32_t load_u32(const void *p)
{
    uint32_t value;
    memcpy(&value, p, 4);
    return value;
}

INLINE uint64_t load_u64(const void *p)
{
    uint64_t value;
    memcpy(&value, p, 8);
    return value;
}

/* IEEE 754 half -> single, exact. */
INLINE float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00)
        return bits_to_float(sign | 0x7f800000 | ((rest & 0x3ff) << 13));
    if (rest < 0x400) /* subnormal: rest * 2^-24, exact in single */
        return bits_to_float(sign | float_to_bits((float)rest * 0x1p-24f));
    return bits_to_float(sign | ((rest << 13) + 0x38000000));
}

/* single -> half, to nearest even. */
INLINE uint16_t float_to_half(float value)
{
    uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (rest >= 0x477ff000) /* 65520 and more */
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) /* below 2^-14: adding 0.5 shifts the last place to 2^-24 and rounds to even */
        return (uint16_t)(sign | (float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000));
    rest += 0xfff + ((rest >> 13) & 1);
    return (uint16_t)(sign | ((rest - 0x38000000) >> 13));
}

#if defined(LANES_AVX512)
#include <immintrin.h>
#define ISA(name) name##_avx512
typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;
#define vf_zero() _mm512_setzero_ps()
#define vf_set(x) _mm512_set1_ps(x)
#define vf_load(p) _mm512_loadu_ps(p)
#define vf_store(p, v) _mm512_storeu_ps(p, v)
#define vf_add(a, b) _mm512_add_ps(a, b)
#define vf_sub(a, b) _mm512_sub_ps(a, b)
#define vf_mul(a, b) _mm512_mul_ps(a, b)
#define vf_div(a, b) _mm512_div_ps(a, b)
#define vf_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define vf_max(a, b) _mm512_max_ps(a, b)
#define vf_min(a, b) _mm512_min_ps(a, b)
#define vf_abs(a) _mm512_abs_ps(a)
#define vf_from(v) _mm512_cvtepi32_ps(v)
#define vf_halves(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define vf_store_halves(p, v) _mm256_storeu_si256((__m256i *)(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT))
#define vf_bhalves(p) \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))), 16))
#define vf_times_2_to(v, n) \
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), _mm512_slli_epi32(n, 23)))
#define vi_zero() _mm512_setzero_si512()
#define vi_set(x) _mm512_set1_epi32(x)
#define vi_sub(a, b) _mm512_sub_epi32(a, b)
#define vi_round(v) _mm512_cvtps_epi32(v)
#define vi_u8(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define vi_s8(p) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define vi_store_s8(p, v) _mm_storeu_si128((__m128i *)(p), _mm512_cvtepi32_epi8(v))
#define vb_load(p) _mm512_loadu_si512(p)
#define vb_low(v) _mm512_and_si512(v, _mm512_set1_epi8(15))
#define vb_high(v) _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15))
/* two bits of each byte, from bit 2 k on, worth 16 and 32 */
#define vb_two(v, k) \
    _mm512_and_si512((k) == 0   ? _mm512_slli_epi16(v, 4) \
                     : (k) == 1 ? _mm512_slli_epi16(v, 2) \
                     : (k) == 2 ? (v) \
                                : _mm512_srli_epi16(v, 2), \
                     _mm512_set1_epi8(48))
#define vb_or(a, b) _mm512_or_si512(a, b)
/* 16 where the bit of that byte is set */
#define vb_bits(p) _mm512_maskz_mov_epi8((__mmask64)load_u64(p), _mm512_set1_epi8(16))
/* += w . x, four bytes to a lane: w 0 to 127, x one group of four for all lanes */
#define vi_dot(sum, w, x) _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32((int)load_u32(x)))
/* w -128 to 127 is kept as w ^ 0x80, so that sums come out with DOT8_ZERO * (sum of x) too much */
#define DOT8_ZERO 128
#define vi_dot8(sum, w, x) vi_dot(sum, w, x)
#define vb_signed(p) _mm512_xor_si512(vb_load(p), _mm512_set1_epi8((char)0x80))
/* 32 bytes of each of 16 rows -> 8 vb, four columns each, as vi_dot8 wants them */
INLINE void vb_transpose(const uint8_t *const row[16], size_t at, uint8_t *to)
{
    __m512i v[8], w[8];
    for (int i = 0; i < 8; i++) {
        const uint8_t *a = row[i + (i & 4)] + at, *b = row[i + (i & 4) + 4] + at;
        v[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)a)),
                                  _mm256_loadu_si256((const __m256i *)b), 1);
        v[i] = _mm512_xor_si512(v[i], _mm512_set1_epi8((char)0x80));
    }
    for (int i = 0; i < 4; i++) {
        w[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        w[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) { /* v[4 i + c]: columns c and c + 4 of four rows, and of four more */
        v[4 * i] = _mm512_unpacklo_epi64(w[4 * i], w[4 * i + 2]);
        v[4 * i + 1] = _mm512_unpackhi_epi64(w[4 * i], w[4 * i + 2]);
        v[4 * i + 2] = _mm512_unpacklo_epi64(w[4 * i + 1], w[4 * i + 3]);
        v[4 * i + 3] = _mm512_unpackhi_epi64(w[4 * i + 1], w[4 * i + 3]);
    }
    for (int c = 0; c < 4; c++) {
        _mm512_storeu_si512(to + 64 * c, _mm512_shuffle_i32x4(v[c], v[c + 4], 0x88));
        _mm512_storeu_si512(to + 64 * (c + 4), _mm512_shuffle_i32x4(v[c], v[c + 4], 0xdd));
    }
}

INLINE float vf_sum(vf v)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

#define vf_highest(v) _mm512_reduce_max_ps(v)

#elif defined(LANES_AVX2)
#include <immintrin.h>
#define ISA(name) name##_avx2
typedef struct { __m256 a, b; } vf;
typedef struct { __m256i a, b; } vi;
typedef struct { __m256i a, b; } vb;
#define VF(x, y) ((vf){x, y})
#define VI(x, y) ((vi){x, y})
#define VB(x, y) ((vb){x, y})
INLINE vf vf_zero(void) { return VF(_mm256_setzero_ps(), _mm256_setzero_ps()); }
INLINE vf vf_set(float x) { return VF(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
INLINE vf vf_load(const float *p) { return VF(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b); }
INLINE vf vf_add(vf x, vf y) { return VF(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
INLINE vf vf_sub(vf x, vf y) { return VF(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
INLINE vf vf_mul(vf x, vf y) { return VF(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
INLINE vf vf_div(vf x, vf y) { return VF(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
INLINE vf vf_fma(vf x, vf y, vf z) { return VF(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)); }
INLINE vf vf_max(vf x, vf y) { return VF(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
INLINE vf vf_min(vf x, vf y) { return VF(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
INLINE vf vf_abs(vf x)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return VF(_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b));
}
INLINE vf vf_from(vi x) { return VF(_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)); }
INLINE vf vf_halves(const void *p)
{
    const __m128i *h = p;
    return VF(_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1)));
}
INLINE void vf_store_halves(void *p, vf v)
{
    __m128i *h = p;
    _mm_storeu_si128(h, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(h + 1, _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}
INLINE __m256 bhalves8(const void *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
INLINE vf vf_bhalves(const void *p) { return VF(bhalves8(p), bhalves8((const uint8_t *)p + 16)); }
INLINE __m256 times8(__m256 v, __m256i n)
{
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(n, 23)));
}
INLINE vf vf_times_2_to(vf v, vi n) { return VF(times8(v.a, n.a), times8(v.b, n.b)); }
INLINE vi vi_zero(void) { return VI(_mm256_setzero_si256(), _mm256_setzero_si256()); }
INLINE vi vi_set(int x) { return VI(_mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
INLINE vi vi_sub(vi x, vi y) { return VI(_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)); }
INLINE vi vi_round(vf v) { return VI(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)); }
INLINE vi vi_u8(const void *p)
{
    __m128i v = _mm_loadu_si128(p);
    return VI(_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)));
}
INLINE vi vi_s8(const void *p)
{
    __m128i v = _mm_loadu_si128(p);
    return VI(_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)));
}
INLINE void vi_store_s8(void *p, vi v)
{
    __m256i pairs = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xd8);
    _mm_storeu_si128(p, _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
}
INLINE vb vb_load(const void *p)
{
    return VB(_mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i *)p + 1));
}
INLINE vb vb_low(vb v)
{
    __m256i low = _mm256_set1_epi8(15);
    return VB(_mm256_and_si256(v.a, low), _mm256_and_si256(v.b, low));
}
INLINE vb vb_high(vb v)
{
    return vb_low(VB(_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)));
}
INLINE vb vb_two(vb v, int k)
{
    __m256i mask = _mm256_set1_epi8(48);
    __m256i a = k == 0 ? _mm256_slli_epi16(v.a, 4) : k == 1 ? _mm256_slli_epi16(v.a, 2) : v.a;
    __m256i b = k == 0 ? _mm256_slli_epi16(v.b, 4) : k == 1 ? _mm256_slli_epi16(v.b, 2) : v.b;
    if (k == 3)
        a = _mm256_srli_epi16(v.a, 2), b = _mm256_srli_epi16(v.b, 2);
    return VB(_mm256_and_si256(a, mask), _mm256_and_si256(b, mask));
}
INLINE vb vb_or(vb x, vb y) { return VB(_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)); }
INLINE __m256i bits32(const void *p)
{
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i v = _mm256_shuffle_epi8(_mm256_set1_epi32((int)load_u32(p)), spread);
    v = _mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit);
    return _mm256_and_si256(v, _mm256_set1_epi8(16));
}
INLINE vb vb_bits(const void *p) { return VB(bits32(p), bits32((const uint8_t *)p + 4)); }
INLINE vi vi_dot(vi sum, vb w, const int8_t *x)
{
    __m256i four = _mm256_set1_epi32((int)load_u32(x)), one = _mm256_set1_epi16(1);
    return VI(_mm256_add_epi32(sum.a, _mm256_madd_epi16(_mm256_maddubs_epi16(w.a, four), one)),
              _mm256_add_epi32(sum.b, _mm256_madd_epi16(_mm256_maddubs_epi16(w.b, four), one)));
}
#define DOT8_ZERO 0
/* |w| is at most 128 and |x| at most 127, so that two products fit 16 bits */
INLINE __m256i dot8_8(__m256i sum, __m256i w, __m256i x)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE vi vi_dot8(vi sum, vb w, const int8_t *x)
{
    __m256i four = _mm256_set1_epi32((int)load_u32(x));
    return VI(dot8_8(sum.a, w.a, four), dot8_8(sum.b, w.b, four));
}
INLINE float vf_sum(vf v)
{
    __m256 h = _mm256_add_ps(v.a, v.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
INLINE float vf_highest(vf v)
{
    __m256 h = _mm256_max_ps(v.a, v.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

#elif defined(LANES_NEON)
#include <arm_neon.h>
#if defined(LANES_I8MM)
#define ISA(name) name##_i8mm
#elif defined(LANES_DOTPROD)
#define ISA(name) name##_dotprod
#else
#define ISA(name) name##_neon
#endif
typedef struct { float32x4_t v[4]; } vf;
typedef struct { int32x4_t v[4]; } vi;
typedef struct { uint8x16_t v[4]; } vb;
#define EACH(type, expression) \
    type out; \
    for (int k = 0; k < 4; k++) \
        out.v[k] = (expression); \
    return out
INLINE vf vf_set(float x) { EACH(vf, vdupq_n_f32(x)); }
INLINE vf vf_zero(void) { return vf_set(0.0f); }
INLINE vf vf_load(const float *p) { EACH(vf, vld1q_f32(p + 4 * k)); }
INLINE void vf_store(float *p, vf x)
{
    for (int k = 0; k < 4; k++)
        vst1q_f32(p + 4 * k, x.v[k]);
}
INLINE vf vf_add(vf x, vf y) { EACH(vf, vaddq_f32(x.v[k], y.v[k])); }
INLINE vf vf_sub(vf x, vf y) { EACH(vf, vsubq_f32(x.v[k], y.v[k])); }
INLINE vf vf_mul(vf x, vf y) { EACH(vf, vmulq_f32(x.v[k], y.v[k])); }
INLINE vf vf_div(vf x, vf y) { EACH(vf, vdivq_f32(x.v[k], y.v[k])); }
INLINE vf vf_fma(vf x, vf y, vf z) { EACH(vf, vfmaq_f32(z.v[k], x.v[k], y.v[k])); }
INLINE vf vf_max(vf x, vf y) { EACH(vf, vbslq_f32(vcgtq_f32(x.v[k], y.v[k]), x.v[k], y.v[k])); }
INLINE vf vf_min(vf x, vf y) { EACH(vf, vbslq_f32(vcltq_f32(x.v[k], y.v[k]), x.v[k], y.v[k])); }
INLINE vf vf_abs(vf x) { EACH(vf, vabsq_f32(x.v[k])); }
INLINE vf vf_from(vi x) { EACH(vf, vcvtq_f32_s32(x.v[k])); }
INLINE vf vf_halves(const void *p)
{
    EACH(vf, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)p + 8 * k))));
}
INLINE void vf_store_halves(void *p, vf x)
{
    for (int k = 0; k < 4; k++)
        vst1_u8((uint8_t *)p + 8 * k, vreinterpret_u8_f16(vcvt_f16_f32(x.v[k])));
}
INLINE vf vf_bhalves(const void *p)
{
    EACH(vf, vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8((const uint8_t *)p + 8 * k)), 16)));
}
INLINE vf vf_times_2_to(vf x, vi n)
{
    EACH(vf, vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x.v[k]), vshlq_n_s32(n.v[k], 23))));
}
INLINE vi vi_set(int x) { EACH(vi, vdupq_n_s32(x)); }
INLINE vi vi_zero(void) { return vi_set(0); }
INLINE vi vi_sub(vi x, vi y) { EACH(vi, vsubq_s32(x.v[k], y.v[k])); }
INLINE vi vi_round(vf x) { EACH(vi, vcvtnq_s32_f32(x.v[k])); }
INLINE vi vi_u8(const void *p)
{
    EACH(vi, vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(
        vreinterpret_u8_u32(vdup_n_u32(load_u32((const uint8_t *)p + 4 * k))))))));
}
INLINE vi vi_s8(const void *p)
{
    EACH(vi, vmovl_s16(vget_low_s16(vmovl_s8(
        vreinterpret_s8_u32(vdup_n_u32(load_u32((const uint8_t *)p + 4 * k)))))));
}
INLINE void vi_store_s8(void *p, vi x)
{
    int8x8_t low = vqmovn_s16(vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1])));
    int8x8_t high = vqmovn_s16(vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3])));
    vst1q_s8(p, vcombine_s8(low, high));
}
INLINE vb vb_load(const void *p) { EACH(vb, vld1q_u8((const uint8_t *)p + 16 * k)); }
INLINE vb vb_low(vb x) { EACH(vb, vandq_u8(x.v[k], vdupq_n_u8(15))); }
INLINE vb vb_high(vb x) { EACH(vb, vshrq_n_u8(x.v[k], 4)); }
INLINE vb vb_two(vb x, int two)
{
    int8x16_t by = vdupq_n_s8((int8_t)(4 - 2 * two));
    EACH(vb, vandq_u8(vshlq_u8(x.v[k], by), vdupq_n_u8(48)));
}
INLINE vb vb_or(vb x, vb y) { EACH(vb, vorrq_u8(x.v[k], y.v[k])); }
INLINE vb vb_bits(const void *p)
{
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8_t *b = p;
    EACH(vb, vandq_u8(vtstq_u8(vcombine_u8(vdup_n_u8(b[2 * k]), vdup_n_u8(b[2 * k + 1])), vld1q_u8(bit)),
                      vdupq_n_u8(16)));
}
#define DOT8_ZERO 0
INLINE int32x4_t dot8_4(int32x4_t sum, int8x16_t w, int8x16_t x)
{
#if defined(LANES_DOTPROD) || defined(LANES_I8MM)
    return vdotq_s32(sum, w, x);
#else
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}
INLINE vi vi_dot8(vi sum, vb w, const int8_t *x)
{
    int8x16_t four = vreinterpretq_s8_u32(vdupq_n_u32(load_u32(x)));
    EACH(vi, dot8_4(sum.v[k], vreinterpretq_s8_u8(w.v[k]), four));
}
INLINE vi vi_dot(vi sum, vb w, const int8_t *x)
{
#if defined(LANES_I8MM)
    int8x16_t four = vreinterpretq_s8_u32(vdupq_n_u32(load_u32(x)));
    EACH(vi, vusdotq_s32(sum.v[k], w.v[k], four));
#else
    return vi_dot8(sum, w, x);
#endif
}
INLINE float vf_sum(vf x)
{
    float32x4_t q = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
    float32x2_t d = vadd_f32(vget_low_f32(q), vget_high_f32(q));
    return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
INLINE float vf_highest(vf x)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3])));
}

#else /* any processor */
#define ISA(name) name##_scalar
typedef struct { float v[16]; } vf;
typedef struct { int32_t v[16]; } vi;
typedef struct { uint8_t v[64]; } vb;
#define EACH(type, count, expression) \
    type out; \
    for (int k = 0; k < (count); k++) \
        out.v[k] = (expression); \
    return out
INLINE vf vf_set(float x) { EACH(vf, 16, x); }
INLINE vf vf_zero(void) { return vf_set(0.0f); }
INLINE vf vf_load(const float *p) { EACH(vf, 16, p[k]); }
INLINE void vf_store(float *p, vf x) { memcpy(p, x.v, 64); }
INLINE vf vf_add(vf x, vf y) { EACH(vf, 16, x.v[k] + y.v[k]); }
INLINE vf vf_sub(vf x, vf y) { EACH(vf, 16, x.v[k] - y.v[k]); }
INLINE vf vf_mul(vf x, vf y) { EACH(vf, 16, x.v[k] * y.v[k]); }
INLINE vf vf_div(vf x, vf y) { EACH(vf, 16, x.v[k] / y.v[k]); }
INLINE vf vf_fma(vf x, vf y, vf z) { EACH(vf, 16, __builtin_fmaf(x.v[k], y.v[k], z.v[k])); }
INLINE vf vf_max(vf x, vf y) { EACH(vf, 16, x.v[k] > y.v[k] ? x.v[k] : y.v[k]); }
INLINE vf vf_min(vf x, vf y) { EACH(vf, 16, x.v[k] < y.v[k] ? x.v[k] : y.v[k]); }
INLINE vf vf_abs(vf x) { EACH(vf, 16, __builtin_fabsf(x.v[k])); }
INLINE vf vf_from(vi x) { EACH(vf, 16, (float)x.v[k]); }
INLINE vf vf_halves(const void *p) { EACH(vf, 16, half_to_float(load_u16((const uint8_t *)p + 2 * k))); }
INLINE void vf_store_halves(void *p, vf x)
{
    for (int k = 0; k < 16; k++) {
        uint16_t half = float_to_half(x.v[k]);
        memcpy((uint8_t *)p + 2 * k, &half, 2);
    }
}
INLINE vf vf_bhalves(const void *p)
{
    EACH(vf, 16, bits_to_float((uint32_t)load_u16((const uint8_t *)p + 2 * k) << 16));
}
INLINE vf vf_times_2_to(vf x, vi n)
{
    EACH(vf, 16, bits_to_float(float_to_bits(x.v[k]) + ((uint32_t)n.v[k] << 23)));
}
INLINE vi vi_set(int x) { EACH(vi, 16, x); }
INLINE vi vi_zero(void) { return vi_set(0); }
INLINE vi vi_sub(vi x, vi y) { EACH(vi, 16, x.v[k] - y.v[k]); }
INLINE int32_t to_nearest(float x) { return (int32_t)((x + 0x1.8p23f) - 0x1.8p23f); } /* |x| < 2^22 */
INLINE vi vi_round(vf x) { EACH(vi, 16, to_nearest(x.v[k])); }
INLINE vi vi_u8(const void *p) { EACH(vi, 16, ((const uint8_t *)p)[k]); }
INLINE vi vi_s8(const void *p) { EACH(vi, 16, ((const int8_t *)p)[k]); }
INLINE void vi_store_s8(void *p, vi x)
{
    for (int k = 0; k < 16; k++)
        ((int8_t *)p)[k] = (int8_t)x.v[k];
}
INLINE vb vb_load(const void *p)
{
    vb out;
    memcpy(out.v, p, 64);
    return out;
}
INLINE vb vb_low(vb x) { EACH(vb, 64, x.v[k] & 15); }
INLINE vb vb_high(vb x) { EACH(vb, 64, x.v[k] >> 4); }
INLINE vb vb_two(vb x, int two) { EACH(vb, 64, (uint8_t)(((x.v[k] >> (2 * two)) & 3) << 4)); }
INLINE vb vb_or(vb x, vb y) { EACH(vb, 64, x.v[k] | y.v[k]); }
INLINE vb vb_bits(const void *p) { EACH(vb, 64, (uint8_t)(((((const uint8_t *)p)[k >> 3] >> (k & 7)) & 1) << 4)); }
INLINE vi vi_dot(vi sum, vb w, const int8_t *x)
{
    EACH(vi, 16, sum.v[k] + w.v[4 * k] * x[0] + w.v[4 * k + 1] * x[1] + w.v[4 * k + 2] * x[2] + w.v[4 * k + 3] * x[3]);
}
#define DOT8_ZERO 0
INLINE vi vi_dot8(vi sum, vb w, const int8_t *x)
{
    const int8_t *s = (const int8_t *)w.v;
    EACH(vi, 16, sum.v[k] + s[4 * k] * x[0] + s[4 * k + 1] * x[1] + s[4 * k + 2] * x[2] + s[4 * k + 3] * x[3]);
}
INLINE float vf_sum(vf x)
{
    for (int half = 8; half; half >>= 1)
        for (int k = 0; k < half; k++)
            x.v[k] = x.v[k] + x.v[k + half];
    return x.v[0];
}
INLINE float vf_highest(vf x)
{
    float most = x.v[0];
    for (int k = 1; k < 16; k++)
        most = x.v[k] > most ? x.v[k] : most;
    return most;
}
#endif

#if !defined(LANES_AVX512)
#define vb_signed(p) vb_load(p)
INLINE void vb_transpose(const uint8_t *const row[16], size_t at, uint8_t *to)
{
    for (int r = 0; r < 16; r++)
        for (int g = 0; g < 8; g++)
            memcpy(to + 64 * g + 4 * r, row[r] + at + 4 * g, 4);
}
#endif
#endif
