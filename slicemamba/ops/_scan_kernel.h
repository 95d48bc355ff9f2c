// The sweeps for one tile of channels; included once for each instruction set, after _scan_vector.h.
//
// A vector holds one quantity of kLanes neighbouring channels. A chunk is kChunk steps of the sequence: its step sizes
// and inputs are gathered first, in the order of the sequence; then the states run through it a block at a time, in
// registers.

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr int kBackwardStates = 4;

// Working memory of one thread. Arrays of vectors are written [step or state][lane].
struct Scratch {
    int64_t states, rank;  // padded
    float *delta, *input, *x, *sigmoid, *grad_y;      // [kChunk]
    float *accumulated, *through_decay;               // [kChunk]
    float *bc, *grad_bc;                              // [kChunk][2 * states], no lanes: B then C of a step
    float *decay, *previous;                          // [kChunk][kBackwardStates], [kChunk + 1][kBackwardStates]
    float *a, *h, *carry, *grad_a;                    // [states]; a is A · log2(e)
    float *weight, *weight_rows, *grad_weight;        // [rank], [lane][padded rank], [rank]
    float* grad_dt;                                   // [kChunk][padded rank], no lanes
    const int64_t* order;
    int64_t rows[kChunk];

    static int64_t layout(Scratch* s, float* base, int64_t states, int64_t rank) {
        int64_t used = 0;
        const auto take = [&](float*& field, int64_t floats) {
            field = base ? base + used : nullptr;
            used += round_up(floats, 16) + 16;  // a line apart, or all rows of a chunk would meet in one cache set
        };
        s->states = round_up(states, kStateBlock);
        s->rank = round_up(rank, kTileChannels);
        for (float** f : {&s->delta, &s->input, &s->x, &s->sigmoid, &s->grad_y, &s->accumulated, &s->through_decay})
            take(*f, kChunk * kLanes);
        for (float** f : {&s->bc, &s->grad_bc}) take(*f, kChunk * 2 * s->states);
        for (float** f : {&s->decay, &s->previous}) take(*f, (kChunk + 1) * kBackwardStates * kLanes);
        for (float** f : {&s->a, &s->h, &s->carry, &s->grad_a}) take(*f, s->states * kLanes);
        for (float** f : {&s->weight, &s->weight_rows, &s->grad_weight}) take(*f, s->rank * kLanes);
        take(s->grad_dt, kChunk * s->rank);
        return used;
    }
};

// One direction of one tile of one image.
struct Tile {
    const Problem& p;
    Scratch& s;
    int64_t batch, group, first, count;  // channels first … first + count - 1

    float* row(const Rows& rows, int64_t i) const {
        return rows.data + batch * rows.batch + group * rows.group + i * rows.step;
    }
    // The state before a chunk, (states, kTileChannels): the same place for every instruction set.
    float* checkpoint(int64_t chunk) const {
        const int64_t chunks = round_up(p.length, kChunk) / kChunk;
        const int64_t tiles = round_up(p.channels, kTileChannels) / kTileChannels;
        const int64_t before = (batch * p.groups + group) * tiles + first / kTileChannels;
        return p.checkpoints + (before * chunks + chunk) * s.states * kTileChannels + first % kTileChannels;
    }
};

// Transpose `columns` values of each channel of the tile to [column][lane], zeros in lanes past the last channel.
static void gather_columns(const float* from, int64_t columns, int64_t count, float* to) {
    for (int64_t c = 0; c < columns; ++c)
        for (int64_t lane = 0; lane < kLanes; ++lane) to[c * kLanes + lane] = lane < count ? from[lane * columns + c] : 0.f;
}

static void prepare(const Tile& t) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    const int64_t channel = t.group * p.channels + t.first;
    std::fill(s.a, s.a + s.states * kLanes, 0.f);
    gather_columns(p.a + channel * p.states, p.states, t.count, s.a);
    for (int64_t n = 0; n < p.states; ++n) {
        const Vec a = load(s.a + n * kLanes) * fill(kLog2e);
        store(s.a + n * kLanes, p.a_is_log ? exp2(a) * fill(-kLog2e) : a);
    }
    std::fill(s.bc, s.bc + kChunk * 2 * s.states, 0.f);
    s.order = p.order ? p.order + t.group * p.length : nullptr;
    if (!p.delta.data) gather_columns(p.dt_weight + channel * p.rank, p.rank, t.count, s.weight);
}

// Step sizes of four places at once, so that each weight is read once for the four.
static void project_delta(const Tile& t, int64_t i, int64_t steps, bool backward) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    const float* dt[4];
    Vec raw[4];
    const Vec bias = load_some(p.dt_bias + t.group * p.channels + t.first, t.count);
    for (int64_t j = 0; j < 4; ++j) {
        dt[j] = t.row(p.projected, s.rows[std::min(i + j, steps - 1)]);
        raw[j] = bias;
    }
    for (int64_t r = 0; r < p.rank; ++r) {
        const Vec w = load(s.weight + r * kLanes);
        for (int j = 0; j < 4; ++j) raw[j] = fma(w, fill(dt[j][r]), raw[j]);
    }
    for (int64_t j = 0; j < 4; ++j) {  // past the last step this fills places that nobody reads
        Vec sigmoid;
        store(s.delta + (i + j) * kLanes, softplus(raw[j], backward ? &sigmoid : nullptr));
        if (backward) store(s.sigmoid + (i + j) * kLanes, sigmoid);
    }
}

static inline void copy(const float* from, int64_t n, float* to) {
    for (int64_t i = 0; i < n; i += kLanes) store_some(to + i, load_some(from + i, n - i), n - i);
}

// Gather what the steps from `begin` on read: step sizes, inputs, B and C (and for the backward sweep the gradient of y).
static void gather(const Tile& t, int64_t begin, int64_t steps, bool backward) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    for (int64_t i = 0; i < steps; ++i) s.rows[i] = s.order ? s.order[begin + i] : begin + i;
    if (!p.delta.data)
        for (int64_t i = 0; i < steps; i += 4) project_delta(t, i, steps, backward);
    for (int64_t i = 0; i < steps; ++i) {
        const int64_t at = s.rows[i];
        const float* bc = t.row(p.projected, at) + p.rank;
        copy(bc, p.states, s.bc + i * 2 * s.states);
        copy(bc + p.states, p.states, s.bc + i * 2 * s.states + s.states);
        const Vec x = load_some(t.row(p.x, at) + t.first, t.count);
        const Vec delta = p.delta.data ? load_some(t.row(p.delta, at) + t.first, t.count) : load(s.delta + i * kLanes);
        store(s.x + i * kLanes, x);
        store(s.delta + i * kLanes, delta);
        store(s.input + i * kLanes, delta * x);
        if (backward) store(s.grad_y + i * kLanes, load_some(t.row(p.grad_y, at) + t.first, t.count));
    }
}

// Run kForwardStates states through the chunk and add C · h to the outputs.
static void forward_block(Scratch& s, int64_t n, int64_t steps) {
    constexpr int K = kForwardStates;
    Vec h[K], a[K];
    for (int j = 0; j < K; ++j) {
        h[j] = load(s.h + (n + j) * kLanes);
        a[j] = load(s.a + (n + j) * kLanes);
    }
    for (int64_t i = 0; i < steps; ++i) {
        const Vec delta = load(s.delta + i * kLanes), input = load(s.input + i * kLanes);
        const float *b = s.bc + i * 2 * s.states + n, *c = b + s.states;
        Vec y[2] = {n ? load(s.accumulated + i * kLanes) : fill(0.f), fill(0.f)};
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) {
            h[j] = fma(exp2(a[j] * delta), h[j], input * fill(b[j]));
            y[j % 2] = fma(h[j], fill(c[j]), y[j % 2]);
        }
        store(s.accumulated + i * kLanes, y[0] + y[1]);
    }
    for (int j = 0; j < K; ++j) store(s.h + (n + j) * kLanes, h[j]);
}

static void put_checkpoint(const Tile& t, int64_t chunk) {
    float* to = t.checkpoint(chunk);
    const bool final = t.first + kLanes >= t.p.channels;  // then what is left of the tile is filled too
    const int64_t rest = final ? kTileChannels - t.first % kTileChannels - kLanes : 0;
    for (int64_t n = 0; n < t.s.states; ++n, to += kTileChannels) {
        store(to, load(t.s.h + n * kLanes));
        std::fill(to + kLanes, to + kLanes + rest, 0.f);
    }
}

// Sum over the directions of the skip weight, for directions that share x; zero without a skip.
static Vec shared_skip(const Tile& t) {
    Vec sum = fill(0.f);
    for (int64_t k = 0; t.p.skip && k < t.p.groups; ++k)
        sum = sum + load_some(t.p.skip + k * t.p.channels + t.first, t.count);
    return sum;
}

static void forward_tile(const Tile& t) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    prepare(t);
    std::fill(s.h, s.h + s.states * kLanes, 0.f);
    const bool add = t.group > 0 && p.y.group == 0;  // the first direction writes, the others add
    const Vec skip = add ? fill(0.f) : shared_skip(t);
    for (int64_t begin = 0; begin < p.length; begin += kChunk) {
        const int64_t steps = std::min(kChunk, p.length - begin);
        if (p.checkpoints) put_checkpoint(t, begin / kChunk);
        gather(t, begin, steps, false);
        for (int64_t n = 0; n < s.states; n += kForwardStates) forward_block(s, n, steps);
        for (int64_t i = 0; i < steps; ++i) {
            float* y = t.row(p.y, s.rows[i]) + t.first;
            const Vec own = load(s.accumulated + i * kLanes);
            store_some(y, add ? load_some(y, t.count) + own : fma(skip, load(s.x + i * kLanes), own), t.count);
        }
    }
}

// Recompute kBackwardStates states of the chunk from its checkpoint, keeping each state and decay for the way back.
static void recompute_block(Scratch& s, const float* start, int64_t n, int64_t steps) {
    constexpr int K = kBackwardStates;
    Vec h[K], a[K];
    for (int j = 0; j < K; ++j) {
        h[j] = load(start + (n + j) * kTileChannels);
        a[j] = load(s.a + (n + j) * kLanes);
        store(s.previous + j * kLanes, h[j]);
    }
    for (int64_t i = 0; i < steps; ++i) {
        const Vec delta = load(s.delta + i * kLanes), input = load(s.input + i * kLanes);
        const float* b = s.bc + i * 2 * s.states + n;
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
        const float *b = s.bc + i * 2 * s.states + n, *c = b + s.states;
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
static void finish_steps(const Tile& t, int64_t steps, Vec skip, Vec* grad_skip) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    const bool add = t.group > 0 && p.grad_x.group == 0;
    for (int64_t i = 0; i < steps; ++i) {
        const Vec to_input = load(s.accumulated + i * kLanes), x = load(s.x + i * kLanes);
        const Vec grad_y = load(s.grad_y + i * kLanes);
        const Vec grad_delta = fma(to_input, x, load(s.through_decay + i * kLanes) * fill(kLn2));
        const Vec own = to_input * load(s.delta + i * kLanes);
        float* grad_x = t.row(p.grad_x, s.rows[i]) + t.first;
        store_some(grad_x, add ? load_some(grad_x, t.count) + own : fma(skip, grad_y, own), t.count);
        *grad_skip = fma(grad_y, x, *grad_skip);
        if (p.grad_delta.data)
            store_some(t.row(p.grad_delta, s.rows[i]) + t.first, grad_delta, t.count);
        else
            store(s.delta + i * kLanes, grad_delta * load(s.sigmoid + i * kLanes));
    }
}

// Gradients of dt_weight, of its bias, and of dt, from the gradient of the step sizes in s.delta.
static void finish_projection(const Tile& t, int64_t steps, Vec* grad_bias) {
    Scratch& s = t.s;
    for (int64_t i = 0; i < steps; ++i) *grad_bias = *grad_bias + load(s.delta + i * kLanes);
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
        if (!p.delta.data) put(to, s.grad_dt + i * s.rank, p.rank, add);
        put(to + p.rank, s.grad_bc + i * 2 * s.states, p.states, add);
        put(to + p.rank + p.states, s.grad_bc + i * 2 * s.states + s.states, p.states, add);
    }
}

static void put_columns(const float* from, int64_t columns, int64_t count, float* to) {
    for (int64_t lane = 0; lane < count; ++lane)
        for (int64_t c = 0; c < columns; ++c) to[lane * columns + c] = from[c * kLanes + lane];
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
    if (p.delta.data) return;
    put_columns(s.grad_weight, p.rank, t.count, p.grad_dt_weight + channel * p.rank);
    store_some(p.grad_dt_bias + channel, grad_bias, t.count);
    store_some(p.grad_skip + channel, grad_skip, t.count);
}

static void backward_tile(const Tile& t, int64_t part, bool add) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    prepare(t);
    for (float* zeroed : {s.carry, s.grad_a}) std::fill(zeroed, zeroed + s.states * kLanes, 0.f);
    for (float* zeroed : {s.grad_weight, s.weight_rows}) std::fill(zeroed, zeroed + s.rank * kLanes, 0.f);
    for (int64_t lane = 0; !p.delta.data && lane < t.count; ++lane)
        copy(p.dt_weight + (t.group * p.channels + t.first + lane) * p.rank, p.rank, s.weight_rows + lane * s.rank);
    const Vec skip = t.group > 0 ? fill(0.f) : shared_skip(t);
    Vec grad_bias = fill(0.f), grad_skip = fill(0.f);
    for (int64_t begin = (p.length - 1) / kChunk * kChunk; begin >= 0; begin -= kChunk) {
        const int64_t steps = std::min(kChunk, p.length - begin);
        gather(t, begin, steps, true);
        for (int64_t n = 0; n < s.states; n += kBackwardStates) {
            recompute_block(s, t.checkpoint(begin / kChunk), n, steps);
            backward_block(s, n, steps);
        }
        finish_steps(t, steps, skip, &grad_skip);
        if (!p.delta.data) finish_projection(t, steps, &grad_bias);
        put_projected(t, part, steps, add);
    }
    put_parameters(t, grad_bias, grad_skip);
}

static int64_t scratch_floats(const Problem& p) {
    Scratch s;
    return Scratch::layout(&s, nullptr, p.states, p.rank);
}

// A task of the forward pass is one tile of one image: its directions follow each other, so y is summed in a fixed order.
static void forward_task(const Problem& p, float* memory, int64_t task) {
    Scratch s;
    Scratch::layout(&s, memory, p.states, p.rank);
    const int64_t tiles = round_up(p.channels, kLanes) / kLanes, first = task % tiles * kLanes;
    for (int64_t k = 0; k < p.groups; ++k)
        forward_tile({p, s, task / tiles, k, first, std::min(kLanes, p.channels - first)});
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
