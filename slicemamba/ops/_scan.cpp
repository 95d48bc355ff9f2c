// Entry points of the native scan: C ABI, raw pointers, no torch. One library serves every torch and every x86 machine:
// the kernels are compiled for three instruction sets and the best that the machine has is taken when it runs. On ARM
// the baseline's vectors are NEON's.
#include "_scan.h"
#include "_scan_threads.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#define SCAN_X86 1
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)  // GCC 12 warns of its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif

#define SCAN_ISA 0
namespace baseline {
#include "_scan_vector.h"
#include "_scan_tile.h"
#include "_scan_forward.h"
#include "_scan_backward.h"
#include "_scan_gemm.h"
#include "_scan_gated_norm.h"
#include "_scan_depthwise.h"
#include "_scan_instance_norm.h"
}  // namespace baseline
#undef SCAN_ISA

#ifdef SCAN_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SCAN_ISA 1
namespace avx2 {
#include "_scan_vector.h"
#include "_scan_tile.h"
#include "_scan_forward.h"
#include "_scan_backward.h"
#include "_scan_gemm.h"
#include "_scan_gated_norm.h"
#include "_scan_depthwise.h"
#include "_scan_instance_norm.h"
}  // namespace avx2
#undef SCAN_ISA
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw")
#endif
#define SCAN_ISA 2
namespace avx512 {
#include "_scan_vector.h"
#include "_scan_tile.h"
#include "_scan_forward.h"
#include "_scan_backward.h"
#include "_scan_gemm.h"
#include "_scan_gated_norm.h"
#include "_scan_depthwise.h"
#include "_scan_instance_norm.h"
}  // namespace avx512
#undef SCAN_ISA
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // SCAN_X86

namespace {

// Sums of one chunk of places, what follows from all sums of an image, and the result of one chunk.
struct InstanceNormSteps {
    void (*sum)(const InstanceNorm&, int64_t, int64_t);
    void (*combine)(const InstanceNorm&, int64_t);
    void (*apply)(const InstanceNorm&, int64_t, int64_t);
};

struct Variant {
    int64_t lanes;
    int64_t (*scratch_floats)(const Problem&);
    void (*forward_task)(const Problem&, float*, int64_t);
    void (*backward_task)(const Problem&, float*, int64_t);
    void (*product_block)(const Product&, int64_t, int64_t, int64_t, int64_t, int64_t);
    void (*transpose_block)(const float*, int64_t, int64_t, int64_t, float*);
    void (*gated_norm_rows)(const GatedNorm&, int64_t, int64_t);
    void (*gated_norm_backward_rows)(const GatedNorm&, int64_t, int64_t, int64_t);
    void (*depthwise_rows)(const DepthwiseSilu&, int64_t, int64_t, int64_t);
    int64_t (*depthwise_scratch)(const DepthwiseSilu&);
    void (*depthwise_backward_band)(const DepthwiseSilu&, float*, int64_t);
    InstanceNormSteps instance_norm, instance_norm_backward;
};

#define SCAN_VARIANT(isa)                                                                                           \
    {isa::kLanes,                                                                                                   \
     isa::scratch_floats,                                                                                           \
     isa::forward_task,                                                                                             \
     isa::backward_task,                                                                                            \
     isa::product_block,                                                                                            \
     isa::transpose_block,                                                                                          \
     isa::gated_norm_rows,                                                                                          \
     isa::gated_norm_backward_rows,                                                                                 \
     isa::depthwise_rows,                                                                                           \
     isa::depthwise_scratch,                                                                                        \
     isa::depthwise_backward_band,                                                                                  \
     {isa::instance_norm_sum, isa::instance_norm_combine, isa::instance_norm_apply},                                \
     {isa::instance_norm_backward_sum, isa::instance_norm_backward_combine, isa::instance_norm_backward_apply}}
const Variant kVariants[] = {
    SCAN_VARIANT(baseline),
#ifdef SCAN_X86
    SCAN_VARIANT(avx2),
    SCAN_VARIANT(avx512),
#endif
};

// Denormals are far below float32's accuracy here and slow on x86: flush them, and put the mode back.
class FlushDenormals {
  public:
#ifdef SCAN_X86
    FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before_); }

  private:
    unsigned before_;
#else
    FlushDenormals() {}
    ~FlushDenormals() {}
#endif
};

template <class Work>
void share_out(int64_t tasks, int64_t threads, const Work& work) {
    std::atomic<int64_t> next{0};
    on_threads(std::max<int64_t>(1, std::min(threads, tasks)), [&] {
        FlushDenormals flush;
        work([&] { return next.fetch_add(1, std::memory_order_relaxed); });
    });
}

// Sum `parts` buffers into the first, always in the same order.
void sum_parts(float* data, int64_t size, int64_t parts, int64_t threads) {
    constexpr int64_t kBlock = 1 << 14;
    if (!data || parts < 2) return;
    const int64_t tasks = round_up(size, kBlock) / kBlock;
    share_out(tasks, threads, [&](auto next) {
        for (int64_t i = next(); i < tasks; i = next())
            for (int64_t part = 1; part < parts; ++part)
                for (int64_t at = i * kBlock; at < std::min(size, (i + 1) * kBlock); ++at) data[at] += data[part * size + at];
    });
}

// (rows × columns) = (rows × inner) · (inner × columns), in blocks whose size the shape alone decides.
void multiply(const Problem& p, const Product& m, int64_t rows, int64_t columns, int64_t inner) {
    constexpr int64_t kRows = 64, kColumns = 96;
    const int64_t across = round_up(columns, kColumns) / kColumns, tasks = round_up(rows, kRows) / kRows * across;
    share_out(tasks, p.threads, [&](auto next) {
        for (int64_t i = next(); i < tasks; i = next()) {
            const int64_t row = i / across * kRows, column = i % across * kColumns;
            kVariants[p.isa].product_block(m, row, std::min(kRows, rows - row), column,
                                           std::min(kColumns, columns - column), inner);
        }
    });
}

// All places of all images through x_weight: projected = x · x_weightᵀ.
void project(const Problem& p) {
    const int64_t width = p.projected.step, rows = p.batches * p.length;
    std::vector<float> transposed(p.channels * width);
    const int64_t lanes = kVariants[p.isa].lanes, blocks = round_up(p.channels, lanes) / lanes;
    share_out(blocks, p.threads, [&](auto next) {
        for (int64_t i = next(); i < blocks; i = next())
            kVariants[p.isa].transpose_block(p.x_weight, width, p.channels, i * lanes, transposed.data());
    });
    multiply(p, {p.x.data, p.x.step, 1, transposed.data(), width, p.projected.data, width, false}, rows, width,
             p.channels);
}

// grad_x += grad_projected · x_weight, and grad_x_weight = grad_projectedᵀ · x in `splits` cuts of the places.
void project_backward(const Problem& p) {
    const int64_t width = p.projected.step, rows = p.batches * p.length, size = width * p.channels;
    const float* grad = p.grad_projected.data;
    multiply(p, {grad, width, 1, p.x_weight, p.channels, p.grad_x.data, p.channels, true}, rows, p.channels, width);
    constexpr int64_t kRows = 64;
    const int64_t down = round_up(width, kRows) / kRows, tasks = p.splits * down;
    share_out(tasks, p.threads, [&](auto next) {
        for (int64_t i = next(); i < tasks; i = next()) {
            const int64_t split = i / down, row = i % down * kRows;
            const int64_t begin = rows * split / p.splits, end = rows * (split + 1) / p.splits;
            const Product m{grad + begin * width, 1, width, p.x.data + begin * p.channels, p.channels,
                            p.grad_x_weight + split * size, p.channels, false};
            kVariants[p.isa].product_block(m, row, std::min(kRows, width - row), 0, p.channels, end - begin);
        }
    });
    sum_parts(p.grad_x_weight, size, p.splits, p.threads);
}

template <class Description>
void run(const Description& p, int64_t tasks, int64_t floats, void (*task)(const Description&, float*, int64_t)) {
    share_out(tasks, p.threads, [&](auto next) {
        std::vector<float> memory(floats + 16);
        const uintptr_t address = reinterpret_cast<uintptr_t>(memory.data());
        float* aligned = reinterpret_cast<float*>((address + 63) / 64 * 64);
        for (int64_t i = next(); i < tasks; i = next()) task(p, aligned, i);
    });
}

// With an image for each thread, all steps of an image one after the other, while it lies in the cache; else chunk by
// chunk. The numbers are the same.
void run(const InstanceNorm& g, const InstanceNormSteps& steps) {
    const int64_t chunks = round_up(g.places, g.chunk) / g.chunk;
    const auto all_chunks = [&](auto step, int64_t image) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) step(g, image, chunk);
    };
    const bool by_image = g.batches >= g.threads;
    const int64_t tasks = by_image ? g.batches : g.batches * chunks;
    for (int64_t part = 0; part < (by_image ? 1 : 3); ++part)
        share_out(tasks, g.threads, [&](auto next) {
            for (int64_t i = next(); i < tasks; i = next()) {
                if (by_image) {
                    all_chunks(steps.sum, i);
                    steps.combine(g, i);
                    all_chunks(steps.apply, i);
                } else if (part == 1) {
                    if (i < g.batches) steps.combine(g, i);
                } else {
                    (part == 0 ? steps.sum : steps.apply)(g, i / chunks, i % chunks);
                }
            }
        });
}

}  // namespace

extern "C" {

// The best instruction set of this machine: 0 baseline, 1 AVX2 and FMA, 2 AVX-512.
int64_t slicemamba_best_isa() {
#ifdef SCAN_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    return avx2 ? (avx512 ? 2 : 1) : 0;
#else
    return 0;
#endif
}

// Size of what is passed, so that the caller can tell a library of another version.
int64_t slicemamba_problem_size() {
    return sizeof(Problem) + sizeof(GatedNorm) + sizeof(DepthwiseSilu) + sizeof(InstanceNorm);
}

void slicemamba_scan_forward(const Problem* p) {
    const Variant& variant = kVariants[p->isa];
    if (p->x_weight) project(*p);
    const int64_t tiles = round_up(p->channels, variant.lanes) / variant.lanes;
    run(*p, p->batches * tiles, variant.scratch_floats(*p), variant.forward_task);
}

void slicemamba_scan_backward(const Problem* p) {
    const Variant& variant = kVariants[p->isa];
    run(*p, p->batches * p->parts, variant.scratch_floats(*p), variant.backward_task);
    sum_parts(p->delta.data ? p->grad_b.data : p->grad_projected.data, p->grad_projected_size, p->parts, p->threads);
    if (p->x_weight) project_backward(*p);
    const int64_t rows = p->groups * p->channels;
    sum_parts(p->grad_a, rows * p->states, p->batches, p->threads);
    if (!p->delta.data) sum_parts(p->grad_dt_weight, rows * p->rank, p->batches, p->threads);
    sum_parts(p->grad_dt_bias, rows, p->batches, p->threads);
    sum_parts(p->grad_skip, rows, p->batches, p->threads);
}

void slicemamba_gated_norm_forward(const GatedNorm* g) {
    constexpr int64_t kRows = 64;
    const int64_t tasks = round_up(g->rows, kRows) / kRows;
    share_out(tasks, g->threads, [&](auto next) {
        for (int64_t i = next(); i < tasks; i = next())
            kVariants[g->isa].gated_norm_rows(*g, i * kRows, std::min(g->rows, (i + 1) * kRows));
    });
}

void slicemamba_gated_norm_backward(const GatedNorm* g) {
    share_out(g->parts, g->threads, [&](auto next) {
        for (int64_t i = next(); i < g->parts; i = next())
            kVariants[g->isa].gated_norm_backward_rows(*g, i, g->rows * i / g->parts, g->rows * (i + 1) / g->parts);
    });
    sum_parts(g->grad_weight, g->width, g->parts, g->threads);
    sum_parts(g->grad_bias, g->width, g->parts, g->threads);
}

void slicemamba_depthwise_silu_forward(const DepthwiseSilu* g) {
    constexpr int64_t kRows = 8;
    const int64_t blocks = round_up(g->height, kRows) / kRows, tasks = g->batches * blocks;
    share_out(tasks, g->threads, [&](auto next) {
        for (int64_t i = next(); i < tasks; i = next()) {
            const int64_t row = i % blocks * kRows;
            kVariants[g->isa].depthwise_rows(*g, i / blocks, row, std::min(g->height, row + kRows));
        }
    });
}

void slicemamba_depthwise_silu_backward(const DepthwiseSilu* g) {
    const Variant& variant = kVariants[g->isa];
    const int64_t parts = g->batches * g->bands;
    run(*g, parts, variant.depthwise_scratch(*g), variant.depthwise_backward_band);
    sum_parts(g->grad_weight, (g->kernel * g->kernel + 1) * g->channels, parts, g->threads);
}

void slicemamba_instance_norm_forward(const InstanceNorm* g) { run(*g, kVariants[g->isa].instance_norm); }

void slicemamba_instance_norm_backward(const InstanceNorm* g) {
    run(*g, kVariants[g->isa].instance_norm_backward);
    sum_parts(g->grad_affine, 2 * g->channels, g->batches, g->threads);
}

}  // extern "C"
