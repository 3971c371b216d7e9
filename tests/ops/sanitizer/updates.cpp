// Calls every function of updates.cpp over memory of exactly the size it may touch: updates INSTRUCTIONS.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "updates.h"

extern "C" {
kd_int kd_table_size();
void kd_bring_rows(const kd_table*, const kd_int*, kd_int);
void kd_update_rows(const kd_table*, const kd_int*, const void*, kd_int, double, double, double);
kd_int kd_merge_rows(const kd_rows*, kd_int, kd_int, kd_int, double, kd_int*, void*);
void kd_gather(const kd_piece*, kd_int, kd_int, void*);
double kd_average(const kd_piece*, kd_int, const void* const*, kd_int, kd_int);
double kd_squares(const kd_piece*, kd_int, kd_int);
void kd_multiply(const kd_piece*, kd_int, kd_int, double);
void kd_adamw(const kd_parameter*, kd_int, kd_int, double, double, double);

static const char* asked = "portable";
const char* kd_instructions() { return asked; }
}

static std::mt19937 generator(1);
static kd_int below(kd_int most) { return kd_int(generator() % std::uint32_t(most)); }
template <class T> std::vector<T> numbers(kd_int count) {
    std::vector<T> found(count);
    for (T& one : found) one = T(below(2001) - 1000) / T(500);
    return found;
}
template <class T> void* at(std::vector<T>& of) { return of.empty() ? nullptr : of.data(); }
static long calls = 0;

template <class T> void rows(int type) {
    const kd_int count = 1 + below(12), width = 1 + below(70), steps = 9;
    std::vector<T> weight = numbers<T>(count * width), first = weight, second(count * width, T(0.5));
    std::vector<kd_int> current(count, 0);
    std::vector<double> moves(steps, 0.0), margins(steps, 0.0), decays(steps, 1.0);
    for (kd_int step = 0; step < steps; ++step) {
        kd_table table = {kd_table_size(), type, count, width, weight.data(), first.data(), second.data(), current.data(), step,
                          moves.data(), margins.data(), decays.data(), 0.9, 0.999, 1e-8};
        std::vector<kd_int> read(below(9)), found;
        for (kd_int& row : read) row = below(count);
        std::vector<kd_int> asked = read;
        asked.push_back(count + below(3));  // no rows
        asked.push_back(-1 - below(3));
        kd_bring_rows(&table, asked.data(), kd_int(asked.size()));
        std::vector<kd_rows> parts;
        std::vector<std::vector<T>> values;
        std::vector<std::vector<kd_int>> which;
        for (kd_int part = below(3) + 1; part--;) {
            which.push_back(read);
            values.push_back(numbers<T>(kd_int(read.size()) * width));
        }
        for (std::size_t i = 0; i < which.size(); ++i) parts.push_back({which[i].data(), values[i].data(), kd_int(which[i].size())});
        std::vector<kd_int> unique(read.size() * parts.size());
        std::vector<T> sums(unique.size() * width);
        const kd_int some = kd_merge_rows(parts.data(), kd_int(parts.size()), type, width, 0.5, unique.data(), sums.data());
        std::vector<kd_int> exactly(unique.begin(), unique.begin() + some);
        std::vector<T> slopes(sums.begin(), sums.begin() + some * width);
        kd_update_rows(&table, exactly.data(), slopes.data(), some, 1e-3, 0.5, 0.99);
        calls += 3;
    }
}

template <class T> void pieces(int type) {
    std::vector<std::vector<T>> values, gradients, first, second, parts;
    std::vector<float> steps(5, 0.0f);
    kd_int total = 0;
    for (int i = 0; i < 5; ++i) {
        const kd_int count = below(4) ? below(40) : 1000 + below(60);
        total += count;
        values.push_back(numbers<T>(count));
        gradients.push_back(numbers<T>(count));
        first.push_back(numbers<T>(count));
        second.push_back(std::vector<T>(count, T(0.1)));
    }
    const int missing = int(below(6));
    std::vector<kd_piece> all;
    std::vector<kd_parameter> parameters;
    for (int i = 0; i < 5; ++i) {
        all.push_back({i == missing ? nullptr : at(gradients[i]), kd_int(gradients[i].size())});
        parameters.push_back({at(values[i]), at(gradients[i]), at(first[i]), at(second[i]), &steps[i], kd_int(values[i].size()), 1e-3, 1.0});
    }
    std::vector<T> out(total);
    kd_gather(all.data(), 5, type, out.data());
    const kd_int processes = 2 + below(3);
    std::vector<const void*> addresses;
    for (kd_int i = 0; i < processes; ++i) parts.push_back(numbers<T>(total));
    for (std::vector<T>& part : parts) addresses.push_back(part.data());
    kd_average(all.data(), 5, addresses.data(), processes, type);
    const double before = kd_squares(all.data(), 5, type);
    kd_multiply(all.data(), 5, type, 0.5);
    if (std::fabs(kd_squares(all.data(), 5, type) - before / 4) > 1e-3 * before) std::printf("wrong ");
    kd_adamw(parameters.data(), 5, type, 0.9, 0.999, 1e-8);
    calls += 6;
}

int main(int count, char** words) {
    if (count > 1) asked = words[1];
    if (!std::strcmp(asked, "avx512") && !__builtin_cpu_supports("avx512dq")) return 4;
    if (!std::strcmp(asked, "avx2") && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return 4;
    for (int turn = 0; turn < 300; ++turn) {
        rows<float>(0);
        rows<double>(1);
        pieces<float>(0);
        pieces<double>(1);
    }
    std::printf("%ld calls\n", calls);
    return 0;
}
