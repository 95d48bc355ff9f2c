// LayerNorm(y) · SiLU(z) over rows of channels; included once for each instruction set, after _scan_vector.h.

// Sum over the lanes, in a fixed order.
static inline float sum_of_lanes(Vec v) {
    float lanes[kLanes];
    store(lanes, v);
    for (int64_t width = kLanes / 2; width > 0; width /= 2)
        for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    return lanes[0];
}

// Calls visit(column, lanes that are real) for each vector of a row.
template <class Visit>
static inline __attribute__((always_inline)) void each_vector(int64_t width, const Visit& visit) {
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) visit(c, kLanes);
    if (c < width) visit(c, width - c);
}

static inline Vec sigmoid_of(Vec z) {
    const Vec u = exp2(lower(fill(0.f) - z, z) * fill(kLog2e));  // exp(-|z|)
    return one_or(z, u) / (u + fill(1.f));
}

// Mean of a row and one over its standard deviation (biased, as LayerNorm has it).
static inline void moments(const float* y, int64_t width, float eps, Vec* mean, Vec* scale) {
    Vec sum = fill(0.f), squares = fill(0.f);
    each_vector(width, [&](int64_t c, int64_t n) { sum = sum + load_some(y + c, n); });
    const Vec middle = fill(sum_of_lanes(sum) / width);
    each_vector(width, [&](int64_t c, int64_t n) {
        Vec off = load_some(y + c, n) - middle;
        if (n < kLanes) {  // the lanes past the last channel hold nothing that counts
            float lanes[kLanes];
            store(lanes, off);
            off = load_some(lanes, n);
        }
        squares = fma(off, off, squares);
    });
    *mean = middle;
    *scale = fill(1.f / std::sqrt(sum_of_lanes(squares) / width + eps));
}

static void gated_norm_rows(const GatedNorm& g, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
        const float *y = g.y + row * g.width, *z = g.z + row * g.z_row;
        float* out = g.out + row * g.width;
        Vec mean, scale;
        moments(y, g.width, g.eps, &mean, &scale);
        each_vector(g.width, [&](int64_t c, int64_t n) {
            const Vec gate = load_some(z + c, n);
            const Vec normed = (load_some(y + c, n) - mean) * scale;
            const Vec affine = fma(normed, load_some(g.weight + c, n), load_some(g.bias + c, n));
            store_some(out + c, affine * gate * sigmoid_of(gate), n);
        });
    }
}

// With x̂ the normed row, n = x̂·weight + bias and s = sigmoid(z): grad_z = g·n·s·(1 + z·(1 − s)), and for g' = g·z·s·weight
// grad_y = (g' − mean(g') − x̂·mean(g'·x̂)) / deviation. Gradients of weight and bias are added to those of this part.
static void gated_norm_backward_rows(const GatedNorm& g, int64_t part, int64_t begin, int64_t end) {
    float *grad_weight = g.grad_weight + part * g.width, *grad_bias = g.grad_bias + part * g.width;
    std::fill(grad_weight, grad_weight + g.width, 0.f);
    std::fill(grad_bias, grad_bias + g.width, 0.f);
    const Vec one = fill(1.f);
    for (int64_t row = begin; row < end; ++row) {
        const float *y = g.y + row * g.width, *z = g.z + row * g.z_row, *grad = g.grad_out + row * g.width;
        float *grad_y = g.grad_y + row * g.width, *grad_z = g.grad_z + row * g.width;
        Vec mean, scale, sum = fill(0.f), product = fill(0.f);
        moments(y, g.width, g.eps, &mean, &scale);
        each_vector(g.width, [&](int64_t c, int64_t n) {
            const Vec gate = load_some(z + c, n), weight = load_some(g.weight + c, n), above = load_some(grad + c, n);
            const Vec normed = (load_some(y + c, n) - mean) * scale, s = sigmoid_of(gate);
            const Vec affine = fma(normed, weight, load_some(g.bias + c, n));
            store_some(grad_z + c, above * affine * s * fma(gate, one - s, one), n);
            const Vec to_affine = above * gate * s, to_normed = to_affine * weight;
            store_some(grad_weight + c, fma(to_affine, normed, load_some(grad_weight + c, n)), n);
            store_some(grad_bias + c, to_affine + load_some(grad_bias + c, n), n);
            store_some(grad_y + c, to_normed, n);
            sum = sum + to_normed;  // 0 in lanes past the last channel, as the weight is
            product = fma(to_normed, normed, product);
        });
        const Vec share = fill(1.f / g.width), mean_of = fill(sum_of_lanes(sum)) * share;
        const Vec along = fill(sum_of_lanes(product)) * share;
        each_vector(g.width, [&](int64_t c, int64_t n) {
            const Vec normed = (load_some(y + c, n) - mean) * scale;
            const Vec rest = load_some(grad_y + c, n) - mean_of - normed * along;
            store_some(grad_y + c, rest * scale, n);
        });
    }
}
