// Calls the CPU op over memory of exactly the size that each call may touch, so that AddressSanitizer sees any step
// beyond it: at the ends of rows, columns, lists, values per row and results. Compiled with the op's own sources.
//
// Usage: runner INSTRUCTIONS. Prints how many calls it made. Returns 2 if the op refused a call, 3 if it wrote between
// rows or left part of a gradient as it was, 4 if the processor has no such instructions.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "call.cuh"

extern "C" int kd_soft_cross_entropy(const kd_call*);
extern "C" int kd_scale(const kd_call*);
extern "C" int kd_limit_instructions(const char*);

namespace {

unsigned long long state = 1;
double uniform() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return double(state >> 11) / double(1ull << 53);
}
kd_int below(kd_int n) { return n < 1 ? 0 : kd_int(uniform() * double(n)) % n; }

const int BYTES[] = {4, 8, 2, 2};

// Memory that ends where its contents end.
struct exact {
    std::unique_ptr<unsigned char, void (*)(void*)> memory;
    size_t size;
    explicit exact(size_t bytes)
        : memory(static_cast<unsigned char*>(std::malloc(bytes ? bytes : 1)), std::free), size(bytes) {
        std::memset(memory.get(), 0x55, bytes);
    }
    void* data() const { return size ? memory.get() : nullptr; }
};

void put(void* data, kd_int at, int type, double value) {
    float single = float(value);
    std::uint32_t bits;
    std::memcpy(&bits, &single, 4);
    if (type == KD_FLOAT32) static_cast<float*>(data)[at] = single;
    else if (type == KD_FLOAT64) static_cast<double*>(data)[at] = value;
    else if (type == KD_BFLOAT16) static_cast<std::uint16_t*>(data)[at] = std::uint16_t(bits >> 16);
    else {  // a half of normal size, cut off
        std::uint32_t size = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
        std::uint32_t half = size < 0x38800000u ? 0 : (size - 0x38000000u) >> 13;
        static_cast<std::uint16_t*>(data)[at] = std::uint16_t(sign | half);
    }
}

// Rows `stride` apart, `first` elements into it; `columns` of each are the row's.
struct matrix {
    kd_int rows, columns, stride, members;
    int type;
    exact room;
    matrix(kd_int rows_, kd_int columns_, kd_int gap, kd_int members_, int type_)
        : rows(rows_), columns(columns_), stride(columns_ + gap), members(members_), type(type_),
          room(size_t(rows_ * members_ > 0 ? ((rows_ * members_ - 1) * stride + columns_) * BYTES[type_] : 0)) {
        for (kd_int row = 0; row < rows * members; ++row)
            for (kd_int j = 0; j < columns; ++j) put(room.data(), row * stride + j, type, uniform() * 8 - 4);
    }
};

template <class A> struct each {
    exact room;
    each(kd_int count, double low, double high) : room(size_t(count) * sizeof(A)) {
        for (kd_int i = 0; i < count; ++i) static_cast<A*>(room.data())[i] = A(low + (high - low) * uniform());
    }
    A* data() { return static_cast<A*>(room.data()); }
};

long calls = 0;

void fail(int code, const char* what, const kd_call& call) {
    std::printf("%s: rows %lld classes %lld type %lld kind %lld members %lld listed %lld tail %lld\n", what, call.rows,
                call.classes, call.student_type, call.kind, call.members, call.listed, call.tail);
    std::exit(code);
}

// Whether the memory of a gradient between rows is as it was, and that of rows was written.
void look_at(const kd_call& call, const matrix& gradient) {
    const unsigned char* bytes = gradient.room.memory.get();
    const int size = BYTES[gradient.type];
    for (kd_int row = 0; row < gradient.rows; ++row) {
        for (kd_int j = 0; j < gradient.columns; ++j) {
            int same = 0;
            for (int b = 0; b < size; ++b) same += bytes[(row * gradient.stride + j) * size + b] == 0x55;
            if (same == size) fail(3, "not written", call);
        }
        for (kd_int j = gradient.columns; j < gradient.stride && row + 1 < gradient.rows; ++j)
            for (int b = 0; b < size; ++b)
                if (bytes[(row * gradient.stride + j) * size + b] != 0x55) fail(3, "written between rows", call);
    }
}

template <class A> void one(kd_int rows, kd_int classes, int type) {
    kd_call call;
    std::memset(&call, 0, sizeof call);
    call.size = sizeof call;
    call.rows = rows;
    call.classes = classes;
    call.student_type = type;
    matrix student(rows, classes, below(3), 1, type), gradient(rows, classes, below(3), 1, type);
    call.student = student.room.data();
    // Rows in two dimensions that are one, at times.
    call.inner = rows > 1 && rows % 2 == 0 && below(2) ? rows / 2 : rows;
    call.student_inner = student.stride;
    call.student_outer = student.stride * call.inner;
    call.gradient_inner = gradient.stride;
    call.gradient_outer = gradient.stride * call.inner;

    // Columns of each row, the last ones of the matrix among them.
    std::vector<kd_int> counts(size_t(rows), classes);
    exact start(size_t(rows) * 8), count(size_t(rows) * 8);
    kd_int least = classes, most = 1;
    bool columns = below(3) == 0;
    for (kd_int row = 0; row < rows; ++row) {
        kd_int own = columns ? 1 + below(classes) : classes;
        counts[size_t(row)] = static_cast<kd_int*>(count.data())[row] = own;
        static_cast<kd_int*>(start.data())[row] = below(2) ? classes - own : below(classes - own + 1);
        least = own < least ? own : least;
        most = own > most ? own : most;
    }
    if (columns) {
        call.start = static_cast<const kd_int*>(start.data());
        call.count = static_cast<const kd_int*>(count.data());
    }

    int teacher_type = below(2) ? type : int(below(4));
    call.members = below(4) == 0 ? 2 + below(2) : 1;
    call.width = columns && below(2) ? most : classes;
    bool sparse = below(4) == 0, untaught = !sparse && below(8) == 0;
    if (sparse || untaught) call.members = 0;
    matrix teacher(rows, call.width, below(3), call.members, teacher_type);
    if (call.members) {
        call.teacher = teacher.room.data();
        call.teacher_type = teacher_type;
        call.teacher_inner = teacher.stride;
        call.teacher_outer = teacher.stride * call.inner;
        call.teacher_member = teacher.stride * rows;
    }
    each<A> shares(call.members * (below(2) ? rows : 1), 0.1, 1);
    if (call.members && below(2)) {
        bool of_rows = shares.room.size != size_t(call.members) * sizeof(A);
        call.shares = shares.data();
        call.share_member = of_rows ? rows : 1;
        call.share_row = of_rows;
    }
    kd_int listed = sparse ? 1 + below(least < 40 ? least : 40) : 0;
    exact index(size_t(rows * listed) * 8);
    each<A> value(rows * listed, 0.1 / 40, 0.9 / 40);
    if (sparse) {
        for (kd_int row = 0; row < rows; ++row) {
            kd_int last = counts[size_t(row)], shift = below(2) ? last - listed : 0;  // the last classes, or the first
            for (kd_int b = 0; b < listed; ++b) static_cast<kd_int*>(index.data())[row * listed + b] = shift + b;
            for (kd_int b = 0; shift > 0 && b + 1 < listed; ++b)  // with gaps among them
                static_cast<kd_int*>(index.data())[row * listed + b] = b < shift ? b : shift + b;
        }
        call.listed = listed;
        call.listed_index = static_cast<const kd_int*>(index.data());
        call.listed_is_log = below(2);
        for (kd_int i = 0; call.listed_is_log && i < rows * listed; ++i)
            value.data()[i] = A(std::log(double(value.data()[i])));
        call.listed_value = value.data();
        call.tail = KD_BUCKET + below(4);
    }

    each<A> temperatures(rows, 0.5, 4), alphas(rows, 0, 1), betas(rows, 0.2, 0.8), weights(rows, 0, 1);
    each<A> incoming(rows, 0.5, 2);
    exact kinds(size_t(rows) * 8), labels(size_t(rows) * 8), labels32(size_t(rows) * 4);
    bool per_row = !sparse && below(3) == 0;
    call.kind = sparse ? (call.tail == KD_TRUNCATED ? below(2) : below(5)) : below(KD_KINDS);
    call.alpha = untaught ? 1 : double(below(3)) / 2;
    bool alpha_per_row = !untaught && below(2);
    for (kd_int row = 0; row < rows; ++row) {
        kd_int kind = per_row ? below(KD_KINDS) : call.kind, label = below(6) ? below(counts[size_t(row)]) : -100;
        static_cast<kd_int*>(kinds.data())[row] = kind;
        if (below(4) == 0) alphas.data()[row] = A(below(2));
        if (below(4) == 0) weights.data()[row] = A(0);
        if (kind == KD_BCE && untaught) static_cast<kd_int*>(kinds.data())[row] = call.kind = KD_CE;
        else if (kind == KD_BCE) alphas.data()[row] = A(0), call.alpha = 0;
        static_cast<kd_int*>(labels.data())[row] = label;
        static_cast<int*>(labels32.data())[row] = int(label);
    }
    if (per_row) call.kinds = static_cast<const kd_int*>(kinds.data());
    if (alpha_per_row) call.alphas = alphas.data();
    bool wide = below(2);
    call.labels = wide ? labels.data() : labels32.data();
    call.label_bytes = wide ? 8 : 4;
    call.ignore_index = -100;
    call.ignore_row = below(2);
    call.temperature = double(1 + below(3));
    call.beta = 0.5;
    call.weight = 1;
    if (below(3) == 0) call.temperatures = temperatures.data();
    if (below(3) == 0) call.betas = betas.data();
    if (below(3) == 0) call.weights = weights.data();
    call.scale_T2 = below(2);
    call.reduction = below(3);
    each<A> normaliser(1, 3, 4);
    if (call.reduction == KD_MEAN && below(2)) call.normalizer = normaliser.data();
    if (below(2)) {
        call.grad_output = incoming.data();
        call.grad_output_stride = call.reduction == KD_EACH;
    }
    call.threads = 2;
    call.check = 1;
    kd_int bad_row = -1;
    call.bad_row = &bad_row;
    kd_int results = call.reduction == KD_EACH ? rows : 1;
    each<A> loss(results, 0, 0), soft(results, 0, 0), hard(results, 0, 0);
    if (below(4)) call.loss = loss.data();
    if (call.loss && below(2)) call.soft = soft.data(), call.hard = hard.data();

    // Without gradient, with it elsewhere, and over the logits.
    for (int way = 0; way < 3; ++way) {
        if (way == 1) {
            std::memset(gradient.room.memory.get(), 0x55, gradient.room.size);
            call.gradient = gradient.room.data();
        } else if (way == 2) {
            call.gradient = student.room.data();
            call.gradient_inner = call.student_inner;
            call.gradient_outer = call.student_outer;
        }
        if (int code = kd_soft_cross_entropy(&call)) {
            std::printf("code %d in row %lld ", code, bad_row);
            fail(2, "refused", call);
        }
        ++calls;
        if (way == 1) look_at(call, gradient);
    }
    call.grad_output = incoming.data();
    if (rows) kd_scale(&call);
}

}  // namespace

int main(int count, char** words) {
    if (count != 2 || kd_limit_instructions(words[1]) != 0) return 4;
    const kd_int lengths[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 63, 65, 127, 129, 511, 512, 513, 600, 1025};
    for (int round = 0; round < 20; ++round)
        for (kd_int classes : lengths)
            for (int type = 0; type < 4; ++type) {
                kd_int rows = below(classes > 100 ? 4 : 36);
                if (type == KD_FLOAT64) one<double>(rows, classes, type);
                else one<float>(rows, classes, type);
            }
    for (kd_int classes : {3, 33}) one<float>(300000 / classes, classes, KD_BFLOAT16);  // by two threads
    one<float>(66, 40001, KD_FLOAT32);  // in more pieces than fit on the stack
    std::printf("%ld calls\n", calls);
    return 0;
}
