// What Python and the kernels share: the description of one scan problem. Mirrored field by field by cpu.py.
//
// Strides are in floats. Directions are the "groups" of the scan. The slice scan has four that read the same x and add to
// the same y (group strides 0); it makes the step sizes itself, and the channels of a place lie next to each other. The
// plain scan is given them (`delta`); each group has channels of its own, whose places lie next to each other.
#pragma once

#include <cstdint>

extern "C" {

struct Rows {
    float* data;
    int64_t batch, group, step;  // strides; of the plain scan, `step` is that from channel to channel or state to state
};

struct Problem {
    int64_t batches, groups, length, channels, states, rank;
    int64_t threads, isa;
    int64_t a_is_log;      // a holds A_log, so that A = -exp(a)
    const int64_t* order;  // (groups, length) row of each place in the sequence; of the plain scan null
    Rows x, y;
    Rows projected;    // slice scan: rows of dt (rank), B (states), C (states)
    Rows delta, b, c;  // plain scan; step sizes are delta + dt_bias, after softplus if that is asked for
    int64_t softplus;
    const float* x_weight;   // (width, channels), width = groups · (rank + 2 states): makes `projected`; null: it is given
    const float* dt_weight;  // (groups, channels, rank)
    const float* dt_bias;    // (groups, channels); of the plain scan, may be null
    const float* a;          // (groups, channels, states)
    const float* skip;       // (groups, channels) or null; of the slice scan, summed over the groups
    float* checkpoints;      // the state before every chunk, or null
    // backward
    int64_t parts;  // groups of channel tiles whose B and C gradients are kept apart until the end
    Rows grad_y, grad_x, grad_delta;
    Rows grad_projected, grad_b, grad_c;  // `parts` buffers one after the other; the sum ends in the first
    int64_t grad_projected_size;          // floats in one such buffer, which holds those of b and c if they are given
    float* grad_x_weight;  // (splits, width, channels); the sum ends in the first
    int64_t splits;        // cuts of the sum over all places
    // (batches, ...) buffers; the sum over the batch ends in the first
    float *grad_dt_weight, *grad_dt_bias, *grad_a, *grad_skip;
};

// LayerNorm(y) · SiLU(z) over rows of channels, and its gradients. Rows lie next to each other, those of z `z_row` apart.
struct GatedNorm {
    int64_t rows, width, z_row, threads, isa;
    double eps;
    const float *y, *z, *weight, *bias;
    float* out;
    // backward
    int64_t parts;  // cuts of the rows; the shape alone decides how many, so the sums never depend on threads
    const float* grad_out;
    float *grad_y, *grad_z;
    float *grad_weight, *grad_bias;  // (parts, width); the sum ends in the first
};

// Where the channels of each place of a map lie: strides in floats.
struct Map {
    float* data;
    int64_t image, row, place;
};

// SiLU of a depthwise convolution of an odd kernel, zeros outside the map, and its gradients.
struct DepthwiseSilu {
    int64_t batches, height, width, channels, kernel, threads, isa;
    Map x;
    const float *weight, *bias;  // (kernel · kernel, channels), (channels)
    float* out;                  // (batches, height, width, channels)
    // backward
    int64_t bands;  // cuts of an image's rows; the shape alone decides how many, so the sums never depend on threads
    Map grad_out;
    float* grad_x;       // as out
    float* grad_weight;  // (batches · bands, kernel · kernel + 1, channels), the bias last; the sum ends in the first
};

// Leaky ReLU of the instance norm over the places of each image, and its gradients; no rows: places lie evenly apart.
struct InstanceNorm {
    int64_t batches, places, channels, threads, isa;
    int64_t chunk;  // places that are summed by themselves; the shape alone decides how many
    double eps, slope;
    Map x;
    const float *weight, *bias;  // (channels)
    float* out;                  // (batches, places, channels)
    float* moments;              // (batches, 2, channels): mean, and one over the deviation
    float* sums;                 // (batches, chunks, 2, channels), to compute with
    // backward
    Map grad_out;
    float* grad_x;       // as out
    float* grad_affine;  // (batches, 2, channels): of weight and bias; the sum ends in the first
};

}  // extern "C"

// c = a · b, or c += a · b. Rows of b and c are contiguous; strides are in floats.
struct Product {
    const float* a;
    int64_t a_row, a_inner;
    const float* b;
    int64_t b_inner;
    float* c;
    int64_t c_row;
    bool add;
};

constexpr int64_t kChunk = 64;       // steps between two checkpoints
constexpr int64_t kStateBlock = 8;   // states are padded to a multiple of this
constexpr int64_t kTileChannels = 16;  // channels are padded to a multiple of this in checkpoints

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
