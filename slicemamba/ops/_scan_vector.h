// Vectors of floats for one instruction set; included once for each, inside its namespace and its target.
// SCAN_ISA is 2 (AVX-512), 1 (AVX2 and FMA) or 0 (the baseline: SSE2 on x86, NEON on 64-bit ARM).

#if SCAN_ISA == 2

typedef __m512 Vec;
constexpr int64_t kLanes = 16;
constexpr int kForwardStates = 8;  // states in registers at a time in the forward sweep

static inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
static inline Vec fill(float v) { return _mm512_set1_ps(v); }
static inline __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
static inline Vec load_some(const float* p, int64_t n) {
    return n >= kLanes ? load(p) : _mm512_maskz_loadu_ps(first_lanes(n), p);
}
static inline void store_some(float* p, Vec v, int64_t n) {
    n >= kLanes ? store(p, v) : _mm512_mask_storeu_ps(p, first_lanes(n), v);
}
static inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline Vec lower(Vec a, Vec b) { return _mm512_min_ps(a, b); }   // b if either is NaN
static inline Vec higher(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // b if either is NaN
static inline Vec one_or(Vec x, Vec other) {                            // 1 where x >= 0, else other
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, fill(0.f), _CMP_GE_OQ), other, fill(1.f));
}

// 2^(i / 32).
alignas(64) static const float kPowers[32] = {
    1.0f, 1.0218971967697144f, 1.0442737340927124f, 1.0671404600143433f, 1.0905077457427979f, 1.114386796951294f, 1.1387885808944702f, 1.1637248992919922f,
    1.1892070770263672f, 1.215247392654419f, 1.2418577671051025f, 1.2690509557724f, 1.2968395948410034f, 1.3252366781234741f, 1.3542555570602417f, 1.3839099407196045f,
    1.4142135381698608f, 1.4451807737350464f, 1.4768261909484863f, 1.5091644525527954f, 1.5422108173370361f, 1.5759809017181396f, 1.610490322113037f, 1.6457555294036865f,
    1.6817928552627563f, 1.7186193466186523f, 1.7562521696090698f, 1.7947090864181519f, 1.8340080976486206f, 1.8741676807403564f, 1.9152065515518188f, 1.9571441411972046f,
};

// 2^x, x = s + r with s the nearest multiple of 1/32: adding 1.5·2^18 rounds to it and leaves 32·s in the low bits, of
// which five look up 2^(the fraction of s); 2^r is a minimax polynomial of degree 2 that is exact at 0 (relative error
// 5e-8). The scaling by 2^floor(s) underflows to 0 by itself; -inf alone needs the bound.
static inline Vec exp2(Vec x) {
    x = higher(fill(-1e5f), x);
    const Vec shifted = x + fill(393216.f);
    const Vec s = shifted - fill(393216.f), r = x - s;
    const Vec power = _mm512_permutex2var_ps(load(kPowers), _mm512_castps_si512(shifted), load(kPowers + 16));
    const Vec p = fma(fma(fill(0.05550410866f), r, fill(0.2402265070f)), r, fill(0.6931471806f));
    return _mm512_scalef_ps(fma(p * r, power, power), s);
}

// Sums over the lanes of eight vectors: three rounds of shuffle and add that halve the vectors, then one in place.
static inline void sum_lanes(const Vec* v, float* out) {
    Vec q[4], d[2];
    for (int i = 0; i < 4; ++i)
        q[i] = _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x44) + _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xEE);
    for (int i = 0; i < 2; ++i)
        d[i] = _mm512_shuffle_f32x4(q[2 * i], q[2 * i + 1], 0x88) + _mm512_shuffle_f32x4(q[2 * i], q[2 * i + 1], 0xDD);
    Vec s = _mm512_shuffle_ps(d[0], d[1], 0x88) + _mm512_shuffle_ps(d[0], d[1], 0xDD);
    s = s + _mm512_shuffle_ps(s, s, 0xB1);  // quarter i holds (v[i], v[i], v[4+i], v[4+i])
    const __m512i places = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 4, 8, 12, 2, 6, 10, 14);
    _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(places, s)));
}

// The lanes of a and b by turns: the first half of them, then the second.
static inline void interleave(Vec a, Vec b, Vec* first, Vec* second) {
    const __m512i places = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *first = _mm512_permutex2var_ps(a, places, b);
    *second = _mm512_permutex2var_ps(a, _mm512_add_epi32(places, _mm512_set1_epi32(8)), b);
}

#elif SCAN_ISA == 1

typedef __m256 Vec;
constexpr int64_t kLanes = 8;
constexpr int kForwardStates = 4;

static inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
static inline Vec fill(float v) { return _mm256_set1_ps(v); }
static inline __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline Vec load_some(const float* p, int64_t n) {
    return n >= kLanes ? load(p) : _mm256_maskload_ps(p, first_lanes(n));
}
static inline void store_some(float* p, Vec v, int64_t n) {
    n >= kLanes ? store(p, v) : _mm256_maskstore_ps(p, first_lanes(n), v);
}
static inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline Vec lower(Vec a, Vec b) { return _mm256_min_ps(a, b); }   // b if either is NaN
static inline Vec higher(Vec a, Vec b) { return _mm256_max_ps(a, b); }  // b if either is NaN
static inline Vec one_or(Vec x, Vec other) {
    return _mm256_blendv_ps(other, fill(1.f), _mm256_cmp_ps(x, fill(0.f), _CMP_GE_OQ));
}

// 2^x: fraction in [-1/2, 1/2], minimax polynomial of degree 5 (relative error 1e-7), exponent added to the bits.
static inline Vec exp2(Vec x) {
    x = higher(fill(-126.f), lower(fill(127.f), x));
    const Vec n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vec f = x - n;
    Vec p = fma(fill(0.001326472731307149f), f, fill(0.009671512991189957f));
    p = fma(p, f, fill(0.05550733581185341f));
    p = fma(p, f, fill(0.24022242426872253f));
    p = fma(p, f, fill(0.6931470036506653f));
    p = fma(p, f, fill(1.f));
    const __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
    return _mm256_castsi256_ps(scaled);
}

static inline void sum_lanes(const Vec* v, float* out) {
    const Vec a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    const Vec b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    store(out, _mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31));
}

static inline void interleave(Vec a, Vec b, Vec* first, Vec* second) {
    const Vec low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    *first = _mm256_permute2f128_ps(low, high, 0x20);
    *second = _mm256_permute2f128_ps(low, high, 0x31);
}

#else

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t Bits __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;
constexpr int kForwardStates = 4;

static inline Vec load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
static inline Vec fill(float v) { return Vec{v, v, v, v}; }
static inline Vec load_some(const float* p, int64_t n) {
    if (n >= kLanes) return load(p);
    Vec v = fill(0.f);
#pragma GCC unroll 4
    for (int64_t i = 0; i < kLanes - 1; ++i)  // not up to n, or GCC would call memcpy for three floats
        if (i < n) v[i] = p[i];
    return v;
}
static inline void store_some(float* p, Vec v, int64_t n) {
    if (n >= kLanes) return store(p, v);
#pragma GCC unroll 4
    for (int64_t i = 0; i < kLanes - 1; ++i)
        if (i < n) p[i] = v[i];
}
static inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
static inline Vec pick(Bits yes, Vec a, Vec b) { return (Vec)(((Bits)a & yes) | ((Bits)b & ~yes)); }
static inline Vec lower(Vec a, Vec b) { return pick(a < b, a, b); }
static inline Vec higher(Vec a, Vec b) { return pick(a > b, a, b); }
static inline Vec one_or(Vec x, Vec other) { return pick(x >= fill(0.f), fill(1.f), other); }

// As for AVX2; adding and taking away 1.5·2^23 rounds to the nearest integer, which is then in the low bits.
static inline Vec exp2(Vec x) {
    x = higher(fill(-126.f), lower(fill(127.f), x));
    const Vec shifted = x + fill(12582912.f);
    const Vec f = x - (shifted - fill(12582912.f));
    Vec p = fma(fill(0.001326472731307149f), f, fill(0.009671512991189957f));
    p = fma(p, f, fill(0.05550733581185341f));
    p = fma(p, f, fill(0.24022242426872253f));
    p = fma(p, f, fill(0.6931470036506653f));
    p = fma(p, f, fill(1.f));
    return (Vec)((Bits)p + ((Bits)shifted << 23));
}

static inline void sum_lanes(const Vec* v, float* out) {
    for (int i = 0; i < 8; ++i) out[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
}

static inline void interleave(Vec a, Vec b, Vec* first, Vec* second) {
    *first = Vec{a[0], b[0], a[1], b[1]};
    *second = Vec{a[2], b[2], a[3], b[3]};
}

#endif

// to[c][r] = from[r][c] for `rows` and `columns` of at most kLanes; the lanes past the last row become 0, if `to` has them.
// Each round interleaves the first half of the vectors with the second, which turns the bits of their places by one.
static inline void transpose(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row,
                             int64_t to_lanes) {
    Vec v[kLanes], turned[kLanes];
    for (int64_t r = 0; r < kLanes; ++r) v[r] = r < rows ? load_some(from + r * from_row, columns) : fill(0.f);
    for (int64_t round = 1; round < kLanes; round *= 2) {
        for (int64_t r = 0; r < kLanes / 2; ++r) interleave(v[r], v[r + kLanes / 2], &turned[2 * r], &turned[2 * r + 1]);
        for (int64_t r = 0; r < kLanes; ++r) v[r] = turned[r];
    }
    for (int64_t c = 0; c < columns; ++c) store_some(to + c * to_row, v[c], to_lanes);
}

// softplus(x) = max(x, 0) + log(1 + u), u = exp(-|x|); log(1 + u) = 2 atanh(u / (2 + u)), a polynomial in the square.
// The sigmoid, its derivative, is 1 / (1 + u) or u / (1 + u) by the sign of x.
static inline Vec softplus(Vec x, Vec* sigmoid) {
    const Vec zero = fill(0.f);
    const Vec u = exp2(lower(zero - x, x) * fill(1.4426950408889634f));
    const Vec s = u / (u + fill(2.f));
    const Vec z = s * s;
    Vec q = fma(fill(0.1408916711807251f), z, fill(0.13980300724506378f));
    q = fma(q, z, fill(0.20012454688549042f));
    q = fma(q, z, fill(0.3333315849304199f));
    q = fma(q, z, fill(1.f));
    if (sigmoid) *sigmoid = one_or(x, u) / (u + fill(1.f));
    return fma(s + s, q, higher(zero, x));
}
