// One call of the op, as Python fills it in: shared by the host and the device, by nvcc, NVRTC, g++ and clang.
//
// Every field is 8 bytes wide, in this order; kdtoolkit/ops/native.py has the same list and a test compares the two.
// "A" is the type of the arithmetic: double if the student's logits are double, float otherwise.
#ifndef KDTOOLKIT_CALL
#define KDTOOLKIT_CALL

typedef long long kd_int;

enum { KD_FLOAT32, KD_FLOAT64, KD_FLOAT16, KD_BFLOAT16 };
enum { KD_CE, KD_KL, KD_RKL, KD_JSD, KD_TVD, KD_MSE, KD_MSE_CENTERED, KD_BCE, KD_KINDS };
enum { KD_DENSE, KD_BUCKET, KD_UNIFORM, KD_RENORM, KD_TRUNCATED };  // what the teacher is
enum { KD_EACH, KD_SUM, KD_MEAN };                                  // reduction
enum { KD_MOST_MEMBERS = 16 };  // of an ensemble; larger ones are averaged by the reference

struct kd_call {
    kd_int size;  // of this structure in bytes: a library of another version refuses the call

    kd_int rows;
    kd_int inner;    // row r of a matrix begins at data + (r / inner) * outer + (r % inner) * inner, in elements
    kd_int classes;  // columns of the student and of the gradient
    kd_int width;    // columns of a dense teacher
    kd_int members;  // of a dense teacher; 0: no teacher is read
    kd_int listed;   // classes that a sparse teacher lists in each row; 0: the teacher is dense

    const void* student;
    kd_int student_type, student_outer, student_inner;
    void* gradient;  // of the student's type; null: only the loss is wanted. May be the student's own memory.
    kd_int gradient_outer, gradient_inner;
    const void* teacher;
    kd_int teacher_type, teacher_outer, teacher_inner, teacher_member;  // strides in elements

    kd_int tail;                 // KD_DENSE, or what becomes of the mass that a sparse teacher does not list
    const kd_int* listed_index;  // (rows, listed), ascending in each row, counted from the row's first column
    const void* listed_value;    // (rows, listed) probabilities or their natural logarithms, of the type A
    kd_int listed_is_log;

    const void* labels;  // null: no label is read
    kd_int label_bytes;  // 4 or 8
    kd_int ignore_index;
    kd_int ignore_row;  // 1: a row with that label is removed; 0: it loses its hard part

    const kd_int* start;  // of each row's columns; null: every row has all
    const kd_int* count;

    const kd_int* kinds;  // these five: one value per row (of type A but for the kinds), or null: the number beside it
    kd_int kind;
    const void* temperatures;
    double temperature;
    const void* alphas;
    double alpha;
    const void* betas;
    double beta;
    const void* weights;
    double weight;

    const void* shares;  // members' weights, of type A, not yet divided by their sum; null: equal
    kd_int share_member, share_row;

    kd_int scale_T2;
    kd_int reduction;
    const void* normalizer;     // of type A, one number; null: the sum of the weights of the rows that count
    const void* grad_output;    // of type A: what the row's gradient is multiplied by; null: 1
    kd_int grad_output_stride;  // 1: one per row; 0: one for all

    void* loss;  // of type A: (rows,) if the reduction is KD_EACH, one number otherwise; null: not wanted, nor the parts
    void* soft;
    void* hard;

    kd_int threads;   // CPU: at most so many
    kd_int check;     // CPU: look at the values first, and return what is wrong with them
    kd_int* bad_row;  // CPU: the first row that is wrong

    void* row_results;  // CUDA: (blocks of the launch, 3) doubles, scratch for the reduction
    int* counter;       // CUDA: 0 before the launch, and again after it
};

// What kd_soft_cross_entropy returns. Above 0: the argument whose value in *bad_row is out of range.
enum {
    KD_DONE, KD_BAD_KIND, KD_BAD_TEMPERATURE, KD_BAD_ALPHA, KD_BAD_BETA, KD_BAD_WEIGHT, KD_BAD_COLUMNS, KD_BAD_LABEL,
    KD_BAD_BINARY, KD_BAD_SHARES, KD_BAD_LISTED, KD_BAD_VERSION = -1, KD_NO_MEMORY = -2,
};

// Labels of a call in which all rows have the same alpha and weight: how many count, how many of these are no class.
struct kd_label_counts { kd_int kept, outside; };

#endif
