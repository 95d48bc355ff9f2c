// What both sweeps share for one tile of channels; included once for each instruction set, after _scan_vector.h.
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
    const float *b[kChunk], *c[kChunk];  // of each step, padded

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
    bool plain() const { return p.delta.data; }
    // The state before a chunk, (states, kTileChannels): the same place for every instruction set.
    float* checkpoint(int64_t chunk) const {
        const int64_t chunks = round_up(p.length, kChunk) / kChunk;
        const int64_t tiles = round_up(p.channels, kTileChannels) / kTileChannels;
        const int64_t before = (batch * p.groups + group) * tiles + first / kTileChannels;
        return p.checkpoints + (before * chunks + chunk) * s.states * kTileChannels + first % kTileChannels;
    }
};

// Transpose `columns` values of each channel of the tile to [column][lane], zeros in lanes past the last channel.
static void gather_columns(const float* from, int64_t stride, int64_t columns, int64_t count, float* to) {
    for (int64_t c = 0; c < columns; c += kLanes)
        transpose(from + c, stride, count, std::min(kLanes, columns - c), to + c * kLanes, kLanes, kLanes);
}

static void prepare(const Tile& t) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    const int64_t channel = t.group * p.channels + t.first;
    std::fill(s.a, s.a + s.states * kLanes, 0.f);
    gather_columns(p.a + channel * p.states, p.states, p.states, t.count, s.a);
    for (int64_t n = 0; n < p.states; ++n) {
        const Vec a = load(s.a + n * kLanes) * fill(kLog2e);
        store(s.a + n * kLanes, p.a_is_log ? exp2(a) * fill(-kLog2e) : a);
    }
    if (p.states < s.states) std::fill(s.bc, s.bc + kChunk * 2 * s.states, 0.f);
    if (!t.plain()) gather_columns(p.dt_weight + channel * p.rank, p.rank, p.rank, t.count, s.weight);
}

// Step sizes of some places at once, so that each weight is read once for all of them.
constexpr int kDeltaSteps = 8;
static void project_delta(const Tile& t, int64_t i, int64_t steps, bool backward) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    const float* dt[kDeltaSteps];
    Vec raw[kDeltaSteps];
    const Vec bias = load_some(p.dt_bias + t.group * p.channels + t.first, t.count);
    for (int64_t j = 0; j < kDeltaSteps; ++j) {
        dt[j] = t.row(p.projected, s.rows[std::min(i + j, steps - 1)]);
        raw[j] = bias;
    }
    for (int64_t r = 0; r < p.rank; ++r) {
        const Vec w = load(s.weight + r * kLanes);
        for (int j = 0; j < kDeltaSteps; ++j) raw[j] = fma(w, fill(dt[j][r]), raw[j]);
    }
    for (int64_t j = 0; j < kDeltaSteps; ++j) {  // past the last step this fills places that nobody reads
        Vec sigmoid;
        store(s.delta + (i + j) * kLanes, softplus(raw[j], backward ? &sigmoid : nullptr));
        if (backward) store(s.sigmoid + (i + j) * kLanes, sigmoid);
    }
}

static inline void copy(const float* from, int64_t n, float* to) {
    for (int64_t i = 0; i < n; i += kLanes) store_some(to + i, load_some(from + i, n - i), n - i);
}

// Of the plain scan: places lie next to each other, so a vector of channels is a column of a block that is transposed.
static void gather_places(const Tile& t, const Rows& from, int64_t begin, int64_t steps, float* to) {
    gather_columns(t.row(from, t.first) + begin, from.step, steps, t.count, to);
}

static void put_places(const Tile& t, const float* from, int64_t begin, int64_t steps, const Rows& to) {
    for (int64_t i = 0; i < steps; i += kLanes) {
        const int64_t n = std::min(kLanes, steps - i);
        transpose(from + i * kLanes, kLanes, n, t.count, t.row(to, t.first) + begin + i, to.step, n);
    }
}

// B or C of some steps to [step][state], `width` apart.
static void gather_states(const Tile& t, const Rows& from, int64_t begin, int64_t steps, float* to, int64_t width) {
    for (int64_t n = 0; n < t.p.states; n += kLanes)
        for (int64_t i = 0; i < steps; i += kLanes)
            transpose(t.row(from, n) + begin + i, from.step, std::min(kLanes, t.p.states - n), std::min(kLanes, steps - i),
                      to + i * width + n, width, std::min(kLanes, t.s.states - n));
}

static void gather_plain(const Tile& t, int64_t begin, int64_t steps, bool backward) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    const int64_t width = 2 * s.states;
    const Vec bias = p.dt_bias ? load_some(p.dt_bias + t.group * p.channels + t.first, t.count) : fill(0.f);
    gather_places(t, p.x, begin, steps, s.x);
    gather_places(t, p.delta, begin, steps, s.delta);
    if (backward) gather_places(t, p.grad_y, begin, steps, s.grad_y);
    gather_states(t, p.b, begin, steps, s.bc, width);
    gather_states(t, p.c, begin, steps, s.bc + s.states, width);
    for (int64_t i = 0; i < steps; ++i) {
        s.b[i] = s.bc + i * width;
        s.c[i] = s.b[i] + s.states;
        Vec delta = load(s.delta + i * kLanes) + bias, sigmoid = fill(1.f);
        if (p.softplus) delta = softplus(delta, backward ? &sigmoid : nullptr);
        if (backward) store(s.sigmoid + i * kLanes, sigmoid);
        store(s.delta + i * kLanes, delta);
        store(s.input + i * kLanes, delta * load(s.x + i * kLanes));
    }
}

// Gather what the steps from `begin` on read: step sizes, inputs, B and C (and for the backward sweep the gradient of y).
static void gather(const Tile& t, int64_t begin, int64_t steps, bool backward) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    if (t.plain()) return gather_plain(t, begin, steps, backward);
    for (int64_t i = 0; i < steps; ++i) s.rows[i] = s.order[begin + i];
    for (int64_t i = 0; i < steps; i += kDeltaSteps) project_delta(t, i, steps, backward);
    for (int64_t i = 0; i < steps; ++i) {
        const int64_t at = s.rows[i];
        const float* bc = t.row(p.projected, at) + p.rank;
        s.b[i] = bc;
        s.c[i] = bc + p.states;
        if (p.states < s.states) {
            float* padded = s.bc + i * 2 * s.states;
            copy(bc, p.states, padded);
            copy(bc + p.states, p.states, padded + s.states);
            s.b[i] = padded;
            s.c[i] = padded + s.states;
        }
        const Vec x = load_some(t.row(p.x, at) + t.first, t.count);
        store(s.x + i * kLanes, x);
        store(s.input + i * kLanes, load(s.delta + i * kLanes) * x);
        if (backward) store(s.grad_y + i * kLanes, load_some(t.row(p.grad_y, at) + t.first, t.count));
    }
}

// Ask for the lines of place i, a place of the chunk that begins at `begin`. Places that follow each other lie rows apart
// in memory: without this, a sweep spends half of its time waiting for them. Of the plain scan, the channels lie apart:
// as many places as a vector has lanes stand for one channel's line each.
template <bool Backward>
static inline __attribute__((always_inline)) void fetch_ahead(const Tile& t, int64_t begin, int64_t i) {
    const Problem& p = t.p;
    int64_t row, offset;
    if (t.plain()) {
        row = t.first + std::min((i - begin) % kLanes, t.count - 1);
        offset = begin + (i - begin) / kLanes * kLanes;
    } else {
        row = t.s.order[i];
        offset = t.first;
    }
    __builtin_prefetch(t.row(p.x, row) + offset);
    if (t.plain()) __builtin_prefetch(t.row(p.delta, row) + offset);
    if (!Backward) {
        __builtin_prefetch(t.row(p.y, row) + offset, 1);
        return;
    }
    __builtin_prefetch(t.row(p.grad_y, row) + offset);
    __builtin_prefetch(t.row(p.grad_x, row) + offset, 1);
    if (t.plain()) __builtin_prefetch(t.row(p.grad_delta, row) + offset, 1);
}

// Asks for the places of a coming chunk, a few in each of the sweeps over blocks of states that come before it: all in
// one sweep would be more than a core can wait for at a time.
template <bool Backward>
class Fetcher {
  public:
    Fetcher(const Tile& t, int64_t begin, int64_t places, int64_t n, int64_t states_a_sweep)
        : t_(t), every_(t.s.states / states_a_sweep), begin_(begin) {
        const int64_t sweep = n / states_a_sweep;
        at_ = begin + std::max<int64_t>(places, 0) * sweep / every_;
        end_ = begin + std::max<int64_t>(places, 0) * (sweep + 1) / every_;
    }
    inline __attribute__((always_inline)) void turn() {  // once a step
        if (++turns_ < every_ || at_ == end_) return;
        turns_ = 0;
        fetch_ahead<Backward>(t_, begin_, at_++);
    }

  private:
    const Tile& t_;
    const int64_t every_, begin_;
    int64_t at_, end_, turns_ = 0;
};

// Name the tile's order and ask for the chunk that its sweep begins with.
template <bool Backward>
static void enter(const Tile& t, int64_t begin) {
    t.s.order = t.plain() ? nullptr : t.p.order + t.group * t.p.length;
    for (int64_t i = begin; i < std::min(begin + kChunk, t.p.length); ++i) fetch_ahead<Backward>(t, begin, i);
}

// The skip weight; for directions that share x, summed over them, and zero for all but the first. Zero without a skip.
static Vec skip_of(const Tile& t) {
    const Problem& p = t.p;
    Vec sum = fill(0.f);
    if (!p.skip || (!t.plain() && t.group > 0)) return sum;
    for (int64_t k = t.plain() ? t.group : 0; k < (t.plain() ? t.group + 1 : p.groups); ++k)
        sum = sum + load_some(p.skip + k * p.channels + t.first, t.count);
    return sum;
}

static int64_t scratch_floats(const Problem& p) {
    Scratch s;
    return Scratch::layout(&s, nullptr, p.states, p.rank);
}
