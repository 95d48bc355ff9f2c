// Leaky ReLU of the instance norm over channels-last maps; included once for each instruction set, after
// _scan_depthwise.h. Sums are made chunk by chunk and then added in order. Means and squares of a chunk are taken in two
// passes over it while it lies in the cache: exact, whatever the mean.

static inline int64_t chunk_end(const InstanceNorm& g, int64_t chunk) {
    return std::min(g.places, (chunk + 1) * g.chunk);
}

static inline float* sums_of(const InstanceNorm& g, int64_t image, int64_t chunk) {
    const int64_t chunks = (g.places + g.chunk - 1) / g.chunk;
    return g.sums + (image * chunks + chunk) * 2 * g.channels;
}

// Mean of a chunk, and the sum of the squares about it.
static void instance_norm_sum(const InstanceNorm& g, int64_t image, int64_t chunk) {
    const int64_t begin = chunk * g.chunk, end = chunk_end(g, chunk);
    float* to = sums_of(g, image, chunk);
    const Vec share = fill(1.f / (end - begin)), zero = fill(0.f);
    each_channels(g.channels, [&](int64_t c, auto lanes) {
        const float *first = g.x.data + image * g.x.image + begin * g.x.place + c, *last = first + (end - begin) * g.x.place;
        const int64_t two = 2 * g.x.place;
        Vec even = zero, odd = zero;  // two sums, as each has to wait for its last addition
        const float* x = first;
        for (; x + g.x.place < last; x += two) {
            even = even + load_some(x, lanes);
            odd = odd + load_some(x + g.x.place, lanes);
        }
        if (x < last) even = even + load_some(x, lanes);
        const Vec mean = (even + odd) * share;
        even = odd = zero;
        for (x = first; x + g.x.place < last; x += two) {
            const Vec a = load_some(x, lanes) - mean, b = load_some(x + g.x.place, lanes) - mean;
            even = fma(a, a, even);
            odd = fma(b, b, odd);
        }
        if (x < last) {
            const Vec a = load_some(x, lanes) - mean;
            even = fma(a, a, even);
        }
        store_some(to + c, mean, lanes);
        store_some(to + g.channels + c, even + odd, lanes);
    });
}

// Chan's formula: the squares about the common mean are those about each chunk's own, and those between the means.
static void instance_norm_combine(const InstanceNorm& g, int64_t image) {
    for (int64_t c = 0; c < g.channels; ++c) {
        double mean = 0, squares = 0;
        for (int64_t chunk = 0; chunk * g.chunk < g.places; ++chunk) {
            const int64_t before = chunk * g.chunk, after = chunk_end(g, chunk);
            const float* sums = sums_of(g, image, chunk) + c;
            const double apart = sums[0] - mean, share = static_cast<double>(after - before) / after;
            mean += apart * share;
            squares += sums[g.channels] + apart * apart * share * before;
        }
        float* to = g.moments + image * 2 * g.channels + c;
        to[0] = static_cast<float>(mean);
        to[g.channels] = static_cast<float>(1 / std::sqrt(squares / g.places + g.eps));
    }
}

// What each channel of an image needs: mean, one over the deviation, weight and bias.
struct Affine {
    Vec mean, scale, weight, bias;
};

static inline Affine affine_of(const InstanceNorm& g, int64_t image, int64_t c, int64_t lanes) {
    const float* moments = g.moments + image * 2 * g.channels + c;
    return {load_some(moments, lanes), load_some(moments + g.channels, lanes), load_some(g.weight + c, lanes),
            load_some(g.bias + c, lanes)};
}

// `above` where v is more than 0, else slope · above. `one_or` takes 0 for positive, so the smallest number is taken off.
static inline Vec leaky(Vec v, Vec above, Vec slope) { return above * one_or(v - fill(1.17549435e-38f), slope); }

static void instance_norm_apply(const InstanceNorm& g, int64_t image, int64_t chunk) {
    const int64_t begin = chunk * g.chunk, end = chunk_end(g, chunk);
    const Vec slope = fill(static_cast<float>(g.slope));
    each_channels(g.channels, [&](int64_t c, auto lanes) {
        const Affine a = affine_of(g, image, c, lanes);
        const float* x = g.x.data + image * g.x.image + c;
        float* out = g.out + image * g.places * g.channels + c;
        for (int64_t i = begin; i < end; ++i) {
            const Vec v = fma((load_some(x + i * g.x.place, lanes) - a.mean) * a.scale, a.weight, a.bias);
            store_some(out + i * g.channels, leaky(v, v, slope), lanes);
        }
    });
}

// With x̂ the normed map and g' the gradient before the leaky ReLU, the gradients of bias and weight are Σ g' and Σ g'·x̂,
// and that of x is weight · scale · (g' − mean(g') − x̂ · mean(g'·x̂)).
static void instance_norm_backward_sum(const InstanceNorm& g, int64_t image, int64_t chunk) {
    const int64_t begin = chunk * g.chunk, end = chunk_end(g, chunk);
    const Vec slope = fill(static_cast<float>(g.slope));
    float* to = sums_of(g, image, chunk);
    each_channels(g.channels, [&](int64_t c, auto lanes) {
        const Affine a = affine_of(g, image, c, lanes);
        const float *x = g.x.data + image * g.x.image + c, *above = g.grad_out.data + image * g.grad_out.image + c;
        Vec sum = fill(0.f), product = fill(0.f);
        for (int64_t i = begin; i < end; ++i) {
            const Vec normed = (load_some(x + i * g.x.place, lanes) - a.mean) * a.scale;
            const Vec grad = leaky(fma(normed, a.weight, a.bias), load_some(above + i * g.grad_out.place, lanes), slope);
            sum = sum + grad;
            product = fma(grad, normed, product);
        }
        store_some(to + c, product, lanes);
        store_some(to + g.channels + c, sum, lanes);
    });
}

static void instance_norm_backward_combine(const InstanceNorm& g, int64_t image) {
    for (int64_t i = 0; i < 2 * g.channels; ++i) {
        double sum = 0;
        for (int64_t chunk = 0; chunk * g.chunk < g.places; ++chunk) sum += sums_of(g, image, chunk)[i];
        g.grad_affine[image * 2 * g.channels + i] = static_cast<float>(sum);
    }
}

static void instance_norm_backward_apply(const InstanceNorm& g, int64_t image, int64_t chunk) {
    const int64_t begin = chunk * g.chunk, end = chunk_end(g, chunk);
    const Vec slope = fill(static_cast<float>(g.slope)), share = fill(1.f / g.places);
    each_channels(g.channels, [&](int64_t c, auto lanes) {
        const Affine a = affine_of(g, image, c, lanes);
        const float *x = g.x.data + image * g.x.image + c, *above = g.grad_out.data + image * g.grad_out.image + c;
        const float* sums = g.grad_affine + image * 2 * g.channels + c;
        const Vec along = load_some(sums, lanes) * share, mean = load_some(sums + g.channels, lanes) * share;
        const Vec scale = a.scale * a.weight;
        float* out = g.grad_x + image * g.places * g.channels + c;
        for (int64_t i = begin; i < end; ++i) {
            const Vec normed = (load_some(x + i * g.x.place, lanes) - a.mean) * a.scale;
            const Vec grad = leaky(fma(normed, a.weight, a.bias), load_some(above + i * g.grad_out.place, lanes), slope);
            store_some(out + i * g.channels, (grad - mean - normed * along) * scale, lanes);
        }
    });
}
