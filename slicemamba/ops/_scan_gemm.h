// Small matrix products; included once for each instruction set, after _scan_vector.h.
//
// A library's product may cut the inner dimension by the number of threads, and then its last bits depend on that number.
// Here each element of the result is summed in an order that the shape alone decides.

#if SCAN_ISA == 2
constexpr int64_t kProductRows = 8, kProductVectors = 3;  // 24 of 32 registers hold results
#else
constexpr int64_t kProductRows = 4, kProductVectors = 2;
#endif
constexpr int64_t kProductColumns = kProductVectors * kLanes;
constexpr int64_t kProductInner = 256;

// R rows by V vectors of columns of c = (add ? c : 0) + a · b; of the last vector only `last` lanes are real.
template <int R, int V, bool Partial>
static inline void product_tile(const Product& m, const float* a, const float* b, float* c, int64_t inner, int64_t last,
                                bool add) {
    Vec sum[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            float* at = c + r * m.c_row + v * kLanes;
            sum[r][v] = !add ? fill(0.f) : Partial && v == V - 1 ? load_some(at, last) : load(at);
        }
    for (int64_t k = 0; k < inner; ++k, a += m.a_inner, b += m.b_inner) {
        Vec row[V];
        for (int v = 0; v < V; ++v)
            row[v] = Partial && v == V - 1 ? load_some(b + v * kLanes, last) : load(b + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Vec scale = fill(a[r * m.a_row]);
            for (int v = 0; v < V; ++v) sum[r][v] = fma(scale, row[v], sum[r][v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            float* at = c + r * m.c_row + v * kLanes;
            Partial && v == V - 1 ? store_some(at, sum[r][v], last) : store(at, sum[r][v]);
        }
}

template <int V, bool Partial>
static void product_columns(const Product& m, const float* a, const float* b, float* c, int64_t rows, int64_t inner,
                            int64_t last, bool add) {
    int64_t r = 0;
    for (; r + kProductRows <= rows; r += kProductRows)
        product_tile<kProductRows, V, Partial>(m, a + r * m.a_row, b, c + r * m.c_row, inner, last, add);
    for (; r < rows; ++r) product_tile<1, V, Partial>(m, a + r * m.a_row, b, c + r * m.c_row, inner, last, add);
}

// Rows [row, row + rows) and columns [column, column + columns) of the product, over `inner` terms.
static void product_block(const Product& m, int64_t row, int64_t rows, int64_t column, int64_t columns, int64_t inner) {
    for (int64_t k = 0; k < inner; k += kProductInner) {
        const int64_t terms = std::min(kProductInner, inner - k);
        const bool add = m.add || k > 0;
        for (int64_t n = column; n < column + columns; n += kProductColumns) {
            const int64_t left = std::min(kProductColumns, column + columns - n);
            const float *a = m.a + row * m.a_row + k * m.a_inner, *b = m.b + k * m.b_inner + n;
            float* c = m.c + row * m.c_row + n;
            if (left == kProductColumns) {
                product_columns<kProductVectors, false>(m, a, b, c, rows, terms, kLanes, add);
                continue;
            }
            const int64_t last = left - (left - 1) / kLanes * kLanes;
            if (left > 2 * kLanes)
                product_columns<3, true>(m, a, b, c, rows, terms, last, add);
            else if (left > kLanes)
                product_columns<2, true>(m, a, b, c, rows, terms, last, add);
            else
                product_columns<1, true>(m, a, b, c, rows, terms, last, add);
        }
    }
}

// Columns [first, first + kLanes) of a (rows × columns) matrix, as rows of its transpose.
static void transpose_block(const float* from, int64_t rows, int64_t columns, int64_t first, float* to) {
    for (int64_t r = 0; r < rows; r += kLanes)
        transpose(from + r * columns + first, columns, std::min(kLanes, rows - r), std::min(kLanes, columns - first),
                  to + first * rows + r, rows, std::min(kLanes, rows - r));
}
