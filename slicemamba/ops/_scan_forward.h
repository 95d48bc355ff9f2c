// The forward sweep for one tile of channels; included once for each instruction set, after _scan_tile.h.

// Run kForwardStates states through the chunk and add C · h to the outputs.
static void forward_block(const Tile& t, int64_t n, int64_t begin, int64_t steps) {
    Scratch& s = t.s;
    constexpr int K = kForwardStates;
    Vec h[K], a[K];
    for (int j = 0; j < K; ++j) {
        h[j] = load(s.h + (n + j) * kLanes);
        a[j] = load(s.a + (n + j) * kLanes);
    }
    Fetcher<false> fetcher(t, begin + kChunk, std::min(kChunk, t.p.length - begin - kChunk), n, K);
    for (int64_t i = 0; i < steps; ++i) {
        const Vec delta = load(s.delta + i * kLanes), input = load(s.input + i * kLanes);
        const float *b = s.b[i] + n, *c = s.c[i] + n;
        fetcher.turn();
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

static void forward_tile(const Tile& t) {
    const Problem& p = t.p;
    Scratch& s = t.s;
    enter<false>(t, 0);
    prepare(t);
    std::fill(s.h, s.h + s.states * kLanes, 0.f);
    const bool add = t.group > 0;  // of directions that share y: the first writes, the others add
    const Vec skip = skip_of(t);
    for (int64_t begin = 0; begin < p.length; begin += kChunk) {
        const int64_t steps = std::min(kChunk, p.length - begin);
        if (p.checkpoints) put_checkpoint(t, begin / kChunk);
        gather(t, begin, steps, false);
        for (int64_t n = 0; n < s.states; n += kForwardStates) forward_block(t, n, begin, steps);
        for (int64_t i = 0; i < steps; ++i) {
            float* sum = s.accumulated + i * kLanes;
            const Vec own = fma(skip, load(s.x + i * kLanes), load(sum));
            if (t.plain()) {
                store(sum, own);
                continue;
            }
            float* y = t.row(p.y, s.rows[i]) + t.first;
            store_some(y, add ? load_some(y, t.count) + own : own, t.count);
        }
        if (t.plain()) put_places(t, s.accumulated, begin, steps, p.y);
    }
}

// A task of the forward pass is one tile of one image: its directions follow each other, so y is summed in a fixed order.
static void forward_task(const Problem& p, float* memory, int64_t task) {
    Scratch s;
    Scratch::layout(&s, memory, p.states, p.rank);
    const int64_t tiles = round_up(p.channels, kLanes) / kLanes, first = task % tiles * kLanes;
    for (int64_t k = 0; k < p.groups; ++k)
        forward_tile({p, s, task / tiles, k, first, std::min(kLanes, p.channels - first)});
}
