// SiLU of a depthwise convolution over channels-last maps; included once for each instruction set, after
// _scan_gated_norm.h. Four columns are made at a time, so that each input that is read serves several of them.

constexpr int kColumns = 4;

// One row of a correlation, for one vector of channels: emit(column, start + sum of inputs · weights) for each column.
// `rows` are the K rows around it at those channels, null outside the map; columns outside hold zeros.
template <int K, class Emit>
static inline __attribute__((always_inline)) void correlate(const float* const* rows, int64_t place, int64_t width,
                                                            const Vec* weight, Vec start, int64_t lanes,
                                                            const Emit& emit) {
    for (int64_t column = 0; column < width; column += kColumns) {
        Vec sum[kColumns];
        for (int i = 0; i < kColumns; ++i) sum[i] = start;
        const int64_t left = column - K / 2;
        const bool inside = left >= 0 && left + kColumns + K - 1 <= width;
        for (int down = 0; down < K; ++down) {
            if (!rows[down]) continue;
#pragma GCC unroll 16
            for (int j = 0; j < kColumns + K - 1; ++j) {
                if (!inside && (left + j < 0 || left + j >= width)) continue;
                const Vec input = load_some(rows[down] + (left + j) * place, lanes);
#pragma GCC unroll 8
                for (int across = 0; across < K; ++across)
                    if (j >= across && j - across < kColumns)
                        sum[j - across] = fma(input, weight[down * K + across], sum[j - across]);
            }
        }
        for (int i = 0; i < kColumns; ++i)
            if (column + i < width) emit(column + i, sum[i]);
    }
}

template <int K>
static inline void row_pointers(const Map& map, int64_t image, int64_t row, int64_t height, int64_t channel,
                                const float** rows) {
    for (int i = 0; i < K; ++i) {
        const int64_t at = row + i - K / 2;
        rows[i] = at < 0 || at >= height ? nullptr : map.data + image * map.image + at * map.row + channel;
    }
}

template <int K>
static inline void load_kernel(const DepthwiseSilu& g, int64_t channel, int64_t lanes, bool turned, Vec* weight) {
    for (int i = 0; i < K * K; ++i)
        weight[turned ? K * K - 1 - i : i] = load_some(g.weight + i * g.channels + channel, lanes);
}

// Calls visit(channel, lanes) for each vector of channels, with a constant number of lanes wherever it is whole.
template <class Visit>
static inline __attribute__((always_inline)) void each_channels(int64_t channels, const Visit& visit) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) visit(c, std::integral_constant<int64_t, kLanes>());
    if (c < channels) visit(c, channels - c);
}

template <int K>
static void depthwise_rows_of(const DepthwiseSilu& g, int64_t image, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
        each_channels(g.channels, [&](int64_t c, auto lanes) {
            const float* rows[K];
            Vec weight[K * K];
            row_pointers<K>(g.x, image, row, g.height, c, rows);
            load_kernel<K>(g, c, lanes, false, weight);
            float* out = g.out + (image * g.height + row) * g.width * g.channels + c;
            correlate<K>(rows, g.x.place, g.width, weight, load_some(g.bias + c, lanes), lanes,
                         [&](int64_t column, Vec sum) {
                             store_some(out + column * g.channels, sum * sigmoid_of(sum), lanes);
                         });
        });
}

// Gradient of what SiLU got, for one row, into `grad`: with s = sigmoid(v), grad_out · s · (1 + v · (1 − s)).
template <int K>
static void depthwise_inner_row(const DepthwiseSilu& g, int64_t image, int64_t row, float* grad) {
    const Vec one = fill(1.f);
    each_channels(g.channels, [&](int64_t c, auto lanes) {
        const float* rows[K];
        Vec weight[K * K];
        row_pointers<K>(g.x, image, row, g.height, c, rows);
        load_kernel<K>(g, c, lanes, false, weight);
        const float* above = g.grad_out.data + image * g.grad_out.image + row * g.grad_out.row + c;
        correlate<K>(rows, g.x.place, g.width, weight, load_some(g.bias + c, lanes), lanes,
                     [&](int64_t column, Vec v) {
                         const Vec s = sigmoid_of(v), up = load_some(above + column * g.grad_out.place, lanes);
                         store_some(grad + column * g.channels + c, up * s * fma(v, one - s, one), lanes);
                     });
    });
}

// Adds what one row gives to the gradients of `Down` rows of the kernel, which stay in registers.
template <int K, int Down>
static inline __attribute__((always_inline)) void add_to_kernel(const DepthwiseSilu& g, const float* const* rows,
                                                                const float* grad, int64_t lanes, float* to) {
    Vec sum[Down * K];
    for (int i = 0; i < Down * K; ++i) sum[i] = load_some(to + i * g.channels, lanes);
    for (int64_t column = 0; column < g.width; column += kColumns) {
        Vec up[kColumns];
        for (int i = 0; i < kColumns; ++i)
            up[i] = column + i < g.width ? load_some(grad + (column + i) * g.channels, lanes) : fill(0.f);
        const int64_t left = column - K / 2;
        const bool inside = left >= 0 && left + kColumns + K - 1 <= g.width;
#pragma GCC unroll 4
        for (int down = 0; down < Down; ++down) {
            if (!rows[down]) continue;
#pragma GCC unroll 16
            for (int j = 0; j < kColumns + K - 1; ++j) {
                if (!inside && (left + j < 0 || left + j >= g.width)) continue;
                const Vec input = load_some(rows[down] + (left + j) * g.x.place, lanes);
#pragma GCC unroll 8
                for (int across = 0; across < K; ++across)
                    if (j >= across && j - across < kColumns)
                        sum[down * K + across] = fma(input, up[j - across], sum[down * K + across]);
            }
        }
    }
    for (int i = 0; i < Down * K; ++i) store_some(to + i * g.channels, sum[i], lanes);
}

template <int K>
static void depthwise_kernel_row(const DepthwiseSilu& g, int64_t image, int64_t row, const float* grad, float* to) {
    constexpr int kDown = K == 3 ? 3 : 1;
    each_channels(g.channels, [&](int64_t c, auto lanes) {
        const float* rows[K];
        row_pointers<K>(g.x, image, row, g.height, c, rows);
        for (int down = 0; down < K; down += kDown)
            add_to_kernel<K, kDown>(g, rows + down, grad + c, lanes, to + down * K * g.channels + c);
        Vec sum = fill(0.f);
        for (int64_t column = 0; column < g.width; ++column) sum = sum + load_some(grad + column * g.channels + c, lanes);
        float* bias = to + K * K * g.channels + c;
        store_some(bias, sum + load_some(bias, lanes), lanes);
    });
}

// Gradient of one row of x: the correlation of the inner gradients, which lie in a ring of K rows, with the kernel turned.
template <int K>
static void depthwise_outer_row(const DepthwiseSilu& g, int64_t image, int64_t row, const float* ring) {
    const int64_t size = g.width * g.channels;
    each_channels(g.channels, [&](int64_t c, auto lanes) {
        const float* rows[K];
        for (int i = 0; i < K; ++i) {
            const int64_t at = row + i - K / 2;
            rows[i] = at < 0 || at >= g.height ? nullptr : ring + at % K * size + c;
        }
        Vec weight[K * K];
        load_kernel<K>(g, c, lanes, true, weight);
        float* out = g.grad_x + (image * g.height + row) * size + c;
        correlate<K>(rows, g.channels, g.width, weight, fill(0.f), lanes,
                     [&](int64_t column, Vec sum) { store_some(out + column * g.channels, sum, lanes); });
    });
}

// One band of rows of one image. The inner gradients of K / 2 rows on either side of it are computed twice.
template <int K>
static void depthwise_backward_of(const DepthwiseSilu& g, float* ring, int64_t part) {
    const int64_t image = part / g.bands, band = part % g.bands, size = g.width * g.channels;
    const int64_t begin = g.height * band / g.bands, end = g.height * (band + 1) / g.bands;
    float* to = g.grad_weight + part * (K * K + 1) * g.channels;
    std::fill(to, to + (K * K + 1) * g.channels, 0.f);
    for (int64_t row = std::max<int64_t>(0, begin - K / 2); row < end + K / 2; ++row) {
        float* grad = ring + row % K * size;
        if (row < g.height) depthwise_inner_row<K>(g, image, row, grad);
        if (row >= begin && row < end) depthwise_kernel_row<K>(g, image, row, grad, to);
        if (row - K / 2 >= begin) depthwise_outer_row<K>(g, image, row - K / 2, ring);
    }
}

static int64_t depthwise_scratch(const DepthwiseSilu& g) { return g.kernel * g.width * g.channels; }

static void depthwise_rows(const DepthwiseSilu& g, int64_t image, int64_t begin, int64_t end) {
    (g.kernel == 3 ? depthwise_rows_of<3> : g.kernel == 5 ? depthwise_rows_of<5> : depthwise_rows_of<7>)(g, image, begin, end);
}

static void depthwise_backward_band(const DepthwiseSilu& g, float* ring, int64_t part) {
    (g.kernel == 3   ? depthwise_backward_of<3>
     : g.kernel == 5 ? depthwise_backward_of<5>
                     : depthwise_backward_of<7>)(g, ring, part);
}
