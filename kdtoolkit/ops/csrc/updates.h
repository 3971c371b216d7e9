// What a training step does to gradients and weights on a CPU, beside its passes through the model: rows of an embedding
// table that wait for their updates (training/table_rows.py says what they wait for), sums, norms, AdamW.
//
// Everything here is float32 (type 0) or float64 (type 1), by one thread.
#pragma once

typedef long long kd_int;

// A table of `rows` times `width` numbers under AdamW, of which a row is brought up to date when it is read. By row,
// `current` is the step up to which that is done; by step, `moves`, `margins` and `decays` are what a row last touched in
// it has still to do. Python packs this: training/compiled_updates.py has the same fields.
struct kd_table {
    kd_int size, type, rows, width;
    void *weight, *first, *second;
    kd_int* current;
    kd_int steps;
    double *moves, *margins, *decays;
    double beta1, beta2, epsilon;
};

// Rows of a gradient: their numbers, and their values one after the other.
struct kd_rows {
    const kd_int* numbers;
    const void* values;
    kd_int count;
};

struct kd_piece {
    void* values;  // null: zeros where they are read, nothing where they would be written
    kd_int count;
};

// A parameter with its gradient, its moments and torch's count of its steps.
struct kd_parameter {
    void *weight, *gradient, *first, *second;
    float* step;
    kd_int count;
    double rate, kept;  // the learning rate, and what weight decay leaves
};

#define KD_UPDATES(name)                                                                                           \
    namespace name {                                                                                               \
    void bring_rows(const kd_table& table, const kd_int* rows, kd_int count);                                      \
    void update_rows(const kd_table& table, const kd_rows& gradient, double rate, double root, double kept);       \
    kd_int merge_rows(const kd_rows* parts, kd_int count, kd_int type, kd_int width, double factor,                \
                      kd_int* numbers, void* out);                                                                 \
    void gather(const kd_piece* pieces, kd_int count, kd_int type, void* out);                                     \
    double average(const kd_piece* pieces, kd_int count, const void* const* parts, kd_int processes, kd_int type); \
    double squares(const kd_piece* pieces, kd_int count, kd_int type);                                             \
    void multiply(const kd_piece* pieces, kd_int count, kd_int type, double factor);                               \
    void adamw(const kd_parameter* all, kd_int count, kd_int type, double beta1, double beta2, double epsilon);    \
    }
