// The backward sweep for one tile of channels; included once for each instruction set, after _scan_tile.h.

// Recompute kBackwardStates states of the chunk from its checkpoint, keeping each state and decay for the way back.
static void recompute_block(const Tile& t, int64_t n, int64_t begin, int64_t steps) {
    Scratch& s = t.s;
    const float* start = t.checkpoint(begin / kChunk);
    constexpr int K = kBackwardStates;
    Vec h[K], a[K];
    for (int j = 0; j < K; ++j) {
        h[j] = load(start + (n + j) * kTileChannels);
        a[j] = load(s.a + (n + j) * kLanes);
        store(s.previous + j * kLanes, h[j]);
    }
    Fetcher<true> fetcher(t, begin - kChunk, begin > 0 ? kChunk : 0, n, K);
    for (int64_t i = 0; i < steps; ++i) {
        const Vec delta = load(s.delta + i * kLanes), input = load(s.input + i * kLanes);
        const float* b = s.b[i] + n;
        fetcher.turn();
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) {
            const Vec decay = exp2(a[j] * delta);
            h[j] = fma(decay, h[j], input * fill(b[j]));
            store(s.decay + (i * K + j) * kLanes, decay);
            store(s.previous + ((i + 1) * K + j) * kLanes, h[j]);
        }
    }
}

// The adjoint from right to left: dh_t = C_t dy_t + decay_{t+1} dh_{t+1}.
static void backward_block(Scratch& s, int64_t n, int64_t steps) {
    constexpr int K = kBackwardStates;
    Vec carry[K], grad_a[K], a[K];
    for (int j = 0; j < K; ++j) {
        carry[j] = load(s.carry + (n + j) * kLanes);
        grad_a[j] = load(s.grad_a + (n + j) * kLanes);
        a[j] = load(s.a + (n + j) * kLanes);
    }
    for (int64_t i = steps - 1; i >= 0; --i) {
        const Vec delta = load(s.delta + i * kLanes), input = load(s.input + i * kLanes);
        const Vec grad_y = load(s.grad_y + i * kLanes);
        const float *b = s.b[i] + n, *c = s.c[i] + n;
        Vec to_input = n ? load(s.accumulated + i * kLanes) : fill(0.f);
        Vec to_delta = n ? load(s.through_decay + i * kLanes) : fill(0.f);
        Vec sums[2 * K];
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) {
            const Vec grad_h = fma(grad_y, fill(c[j]), carry[j]);
            carry[j] = grad_h * load(s.decay + (i * K + j) * kLanes);
            const Vec grad_exponent = carry[j] * load(s.previous + (i * K + j) * kLanes);
            to_input = fma(grad_h, fill(b[j]), to_input);
            to_delta = fma(grad_exponent, a[j], to_delta);
            grad_a[j] = fma(grad_exponent, delta, grad_a[j]);
            sums[j] = grad_h * input;
            sums[K + j] = grad_y * load(s.previous + ((i + 1) * K + j) * kLanes);
        }
        store(s.accumulated + i * kLanes, to_input);
        store(s.through_decay + i * kLanes, to_delta);
        float out[2 * K];
        sum_lanes(sums, out);
        std::memcpy(s.grad_bc + i * 2 * s.states + n, out, K * sizeof(float));
        std::memcpy(s.grad_bc + i * 2 * s.states + s.states + n, out + K, K * sizeof(float));
    }
    for (int j = 0; j < K; ++j) {
        store(s.carry + (n + j) * kLanes, carry[j]);
        store(s.grad_a + (n + j) * kLanes, grad_a[j]);
    }
}

// From the sums over states to the gradients of x and of the step sizes; the latter, before softplus, replace s.delta.
static void finish_steps(const Tile& t, int64_t begin, int64_t steps, Vec skip, Vec* grad_skip) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    const bool add = t.group > 0;
    for (int64_t i = 0; i < steps; ++i) {
        const Vec to_input = load(s.accumulated + i * kLanes), x = load(s.x + i * kLanes);
        const Vec grad_y = load(s.grad_y + i * kLanes);
        const Vec grad_delta = fma(to_input, x, load(s.through_decay + i * kLanes) * fill(kLn2));
        const Vec own = fma(skip, grad_y, to_input * load(s.delta + i * kLanes));
        *grad_skip = fma(grad_y, x, *grad_skip);
        store(s.delta + i * kLanes, grad_delta * load(s.sigmoid + i * kLanes));
        if (t.plain()) {
            store(s.accumulated + i * kLanes, own);
            continue;
        }
        float* grad_x = t.row(p.grad_x, s.rows[i]) + t.first;
        store_some(grad_x, add ? load_some(grad_x, t.count) + own : own, t.count);
    }
    if (!t.plain()) return;
    put_places(t, s.accumulated, begin, steps, p.grad_x);
    put_places(t, s.delta, begin, steps, p.grad_delta);
}

// Gradients of dt_weight and of dt, from the gradient of the step sizes in s.delta.
static void finish_projection(const Tile& t, int64_t steps) {
    Scratch& s = t.s;
    for (int64_t r = 0; r < t.p.rank; r += 4) {
        const int64_t width = std::min<int64_t>(4, t.p.rank - r);
        Vec sum[4];
        for (int j = 0; j < 4; ++j) sum[j] = load(s.grad_weight + (r + j) * kLanes);
        for (int64_t i = 0; i < steps; ++i) {
            const Vec grad = load(s.delta + i * kLanes);
            const float* dt = t.row(t.p.projected, s.rows[i]) + r;
            for (int64_t j = 0; j < width; ++j) sum[j] = fma(grad, fill(dt[j]), sum[j]);
        }
        for (int j = 0; j < 4; ++j) store(s.grad_weight + (r + j) * kLanes, sum[j]);
    }
    for (int64_t i = 0; i < steps; ++i) {
        for (int64_t r = 0; r < s.rank; r += kLanes) {
            Vec sum[2] = {fill(0.f), fill(0.f)};
            for (int64_t lane = 0; lane < kLanes; ++lane) {
                const Vec w = load(s.weight_rows + lane * s.rank + r);
                sum[lane % 2] = fma(w, fill(s.delta[i * kLanes + lane]), sum[lane % 2]);
            }
            store(s.grad_dt + i * s.rank + r, sum[0] + sum[1]);
        }
    }
}

static inline void put(float* to, const float* from, int64_t n, bool add) {
    for (int64_t i = 0; i < n; i += kLanes) {
        const Vec v = load(from + i);
        store_some(to + i, add ? load_some(to + i, n - i) + v : v, n - i);
    }
}

// Add the sums over this tile's channels to the part's rows of gradients of (dt, B, C).
static void put_projected(const Tile& t, int64_t part, int64_t steps, bool add) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    for (int64_t i = 0; i < steps; ++i) {
        float* to = t.row(p.grad_projected, s.rows[i]) + part * p.grad_projected_size;
        put(to, s.grad_dt + i * s.rank, p.rank, add);
        put(to + p.rank, s.grad_bc + i * 2 * s.states, p.states, add);
        put(to + p.rank + p.states, s.grad_bc + i * 2 * s.states + s.states, p.states, add);
    }
}

// The same for the plain scan: sums in [step][state] to rows of states.
static void put_states(const Tile& t, const Rows& rows, const float* from, int64_t part, int64_t begin, int64_t steps,
                       bool add) {
    const int64_t width = 2 * t.s.states;
    float block[kLanes * kLanes];
    for (int64_t n = 0; n < t.p.states; n += kLanes) {
        const int64_t states = std::min(kLanes, t.p.states - n);
        float* to = t.row(rows, n) + part * t.p.grad_projected_size + begin;
        for (int64_t i = 0; i < steps; i += kLanes) {
            transpose(from + i * width + n, width, std::min(kLanes, steps - i), states, block, kLanes, kLanes);
            for (int64_t j = 0; j < states; ++j) {
                float* at = to + j * rows.step + i;
                const Vec sum = load(block + j * kLanes);
                store_some(at, add ? load_some(at, steps - i) + sum : sum, steps - i);
            }
        }
    }
}

static void put_columns(const float* from, int64_t columns, int64_t count, float* to) {
    for (int64_t c = 0; c < columns; c += kLanes) {
        const int64_t n = std::min(kLanes, columns - c);
        float block[kLanes * kLanes];
        transpose(from + c * kLanes, kLanes, n, kLanes, block, kLanes, kLanes);
        for (int64_t lane = 0; lane < count; ++lane) store_some(to + lane * columns + c, load(block + lane * kLanes), n);
    }
}

static void put_parameters(const Tile& t, Vec grad_bias, Vec grad_skip) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    const int64_t channel = (t.batch * p.groups + t.group) * p.channels + t.first;
    if (p.a_is_log)  // dA/dA_log = A
        for (int64_t n = 0; n < p.states; ++n) {
            float* at = s.grad_a + n * kLanes;
            store(at, load(at) * load(s.a + n * kLanes) * fill(kLn2));
        }
    put_columns(s.grad_a, p.states, t.count, p.grad_a + channel * p.states);
    store_some(p.grad_dt_bias + channel, grad_bias, t.count);
    store_some(p.grad_skip + channel, grad_skip, t.count);
    if (!t.plain()) put_columns(s.grad_weight, p.rank, t.count, p.grad_dt_weight + channel * p.rank);
}

static void backward_tile(const Tile& t, int64_t part, bool add) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    enter<true>(t, (p.length - 1) / kChunk * kChunk);
    prepare(t);
    for (float* zeroed : {s.carry, s.grad_a}) std::fill(zeroed, zeroed + s.states * kLanes, 0.f);
    for (float* zeroed : {s.grad_weight, s.weight_rows}) std::fill(zeroed, zeroed + s.rank * kLanes, 0.f);
    for (int64_t lane = 0; !t.plain() && lane < t.count; ++lane)
        copy(p.dt_weight + (t.group * p.channels + t.first + lane) * p.rank, p.rank, s.weight_rows + lane * s.rank);
    const Vec skip = skip_of(t);
    Vec grad_bias = fill(0.f), grad_skip = fill(0.f);
    for (int64_t begin = (p.length - 1) / kChunk * kChunk; begin >= 0; begin -= kChunk) {
        const int64_t steps = std::min(kChunk, p.length - begin);
        gather(t, begin, steps, true);
        for (int64_t n = 0; n < s.states; n += kBackwardStates) {
            recompute_block(t, n, begin, steps);
            backward_block(s, n, steps);
        }
        finish_steps(t, begin, steps, skip, &grad_skip);
        for (int64_t i = 0; i < steps; ++i) grad_bias = grad_bias + load(s.delta + i * kLanes);
        if (t.plain()) {
            put_states(t, p.grad_b, s.grad_bc, part, begin, steps, add);
            put_states(t, p.grad_c, s.grad_bc + s.states, part, begin, steps, add);
        } else {
            finish_projection(t, steps);
            put_projected(t, part, steps, add);
        }
    }
    put_parameters(t, grad_bias, grad_skip);
}

// A task of the backward pass is one part of the tiles of one image. The parts depend on the shape alone, never on the
// number of threads, so neither do the sums.
static void backward_task(const Problem& p, float* memory, int64_t task) {
    Scratch s;
    Scratch::layout(&s, memory, p.states, p.rank);
    const int64_t tiles = round_up(p.channels, kTileChannels) / kTileChannels;
    const int64_t part = task % p.parts, begin = tiles * part / p.parts * kTileChannels;
    const int64_t end = std::min(p.channels, tiles * (part + 1) / p.parts * kTileChannels);
    for (int64_t k = 0; k < p.groups; ++k)
        for (int64_t first = begin; first < end; first += kLanes)
            backward_tile({p, s, task / p.parts, k, first, std::min(kLanes, p.channels - first)}, part, first > begin);
}
