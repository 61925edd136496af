// GroupNorm with an added offset before it and SiLU after it, forward and backward, in two passes over memory.
//
// Images are (B, P, C): channels last, P pixels. A C interface, called by kernel.py; no header but the standard ones.
// The sums of one image do not depend on the number of threads: they are taken over blocks of BLOCK pixels in the
// type of the images, as differences from the mean of the first pixels, and the blocks are added in order in float64.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int64_t BLOCK = 256;
// Tables of a value a channel are repeated to at least this length, so that the inner loops are long.
constexpr int64_t ROW = 128;
// Pixels whose mean is the origin of an image's sums.
constexpr int64_t ORIGIN = 16;

// exp(x) to 2 units in the last place, without a branch, so that the compiler makes vectors of it. Source: Cephes.
inline float exponential(float x) {
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // the nearest whole number stands in the last bits
    const float k = shifted - 12582912.0f;
    const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, 4);
    bits = (bits - 0x4B400000 + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

inline double exponential(double x) { return std::exp(x); }

template <typename T>
inline T sigmoid(T z) {
    return T(1) / (T(1) + exponential(-z));
}

template <typename T>
struct Norm {
    const T *x, *offset, *weight, *bias;  // (B, P, C); (B, C) or null; (B or 1, C) twice
    int64_t batch, pixels, channels, groups, weight_rows;
    double eps;
    bool silu;
    T *mean, *rstd, *channel_mean;  // (B, G), (B, G), (B, C): written by forward, read by backward

    int64_t width() const { return channels * ((ROW + channels - 1) / channels); }
    std::vector<T> repeated(const T *table) const {
        std::vector<T> row(width());
        for (auto to = row.begin(); to != row.end(); to += channels) std::copy_n(table, channels, to);
        return row;
    }
    // Add a repeated row of sums to its channels.
    void fold(const std::vector<T> &row, T *table) const {
        for (int64_t i = 0; i < width(); i += channels)
            for (int64_t c = 0; c < channels; ++c) table[c] += row[i + c];
    }
    // A value near each channel's mean: that of the image's first pixels. Sums of differences from it cancel little.
    std::vector<T> origin(int64_t b) const {
        const int64_t count = std::min<int64_t>(pixels, ORIGIN);
        const T *from = x + b * pixels * channels;
        std::vector<T> near(channels);
        for (int64_t p = 0; p < count; ++p)
            for (int64_t c = 0; c < channels; ++c) near[c] += from[p * channels + c] / T(count);
        return near;
    }
    int64_t blocks() const { return (pixels + BLOCK - 1) / BLOCK; }
    int64_t length(int64_t k) const { return k + 1 < blocks() ? BLOCK : pixels - k * BLOCK; }
    const T *row(const T *table, int64_t b) const { return table + (weight_rows > 1 ? b * channels : 0); }
    const T *block(const T *images, int64_t b, int64_t k) const { return images + (b * pixels + k * BLOCK) * channels; }
    T *block(T *images, int64_t b, int64_t k) const { return images + (b * pixels + k * BLOCK) * channels; }
};

// Run each image's blocks through `first`, then the image through `middle`, then its blocks through `last`: an image a
// thread where there are enough of them, else a block a thread.
template <typename First, typename Middle, typename Last>
void run(int64_t batch, int64_t blocks, int64_t threads, First first, Middle middle, Last last) {
    if (batch >= threads || blocks == 1) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t b = 0; b < batch; ++b) {
            for (int64_t k = 0; k < blocks; ++k) first(b, k);
            middle(b);
            for (int64_t k = 0; k < blocks; ++k) last(b, k);
        }
        return;
    }
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch * blocks; ++i) first(i / blocks, i % blocks);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < batch; ++b) middle(b);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch * blocks; ++i) last(i / blocks, i % blocks);
    }
}

template <typename T>
void forward(const Norm<T> &n, T *y, int64_t threads) {
    const int64_t C = n.channels, W = n.width(), per_group = C / n.groups;
    std::vector<T> sums(n.batch * n.blocks() * 2 * C), scale(n.batch * C), shift(n.batch * C);

    auto first = [&](int64_t b, int64_t k) {
        const T *x = n.block(n.x, b, k);
        const std::vector<T> origins = n.repeated(n.origin(b).data());
        std::vector<T> ones(W), twos(W);
        const T *origin = origins.data();
        T *one = ones.data(), *two = twos.data();
        for (int64_t left = n.length(k) * C; left > 0; left -= W, x += W)
#pragma omp simd
            for (int64_t i = 0; i < std::min(left, W); ++i) {
                const T v = x[i] - origin[i];
                one[i] += v;
                two[i] += v * v;
            }
        n.fold(ones, &sums[(b * n.blocks() + k) * 2 * C]);
        n.fold(twos, &sums[(b * n.blocks() + k) * 2 * C + C]);
    };
    auto middle = [&](int64_t b) {
        const std::vector<T> origin = n.origin(b);
        const T *weight = n.row(n.weight, b), *bias = n.row(n.bias, b);
        const double count = double(n.pixels);
        std::vector<double> means(C), squares(C);
        for (int64_t c = 0; c < C; ++c) {
            double one = 0, two = 0;
            for (int64_t k = 0; k < n.blocks(); ++k) {
                one += sums[(b * n.blocks() + k) * 2 * C + c];
                two += sums[(b * n.blocks() + k) * 2 * C + C + c];
            }
            means[c] = double(origin[c]) + (n.offset ? double(n.offset[b * C + c]) : 0.0) + one / count;
            squares[c] = two - one * one / count;
        }
        for (int64_t g = 0; g < n.groups; ++g) {
            double mean = 0, square = 0;
            for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) mean += means[c] / double(per_group);
            for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c)
                square += squares[c] + count * (means[c] - mean) * (means[c] - mean);
            const double rstd = 1.0 / std::sqrt(square / (count * double(per_group)) + n.eps);
            n.mean[b * n.groups + g] = T(mean);
            n.rstd[b * n.groups + g] = T(rstd);
            for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) {
                const double offset = n.offset ? double(n.offset[b * C + c]) : 0.0;
                n.channel_mean[b * C + c] = T(means[c] - mean);
                scale[b * C + c] = T(rstd * weight[c]);
                shift[b * C + c] = T(bias[c] + (offset - mean) * rstd * weight[c]);
            }
        }
    };
    auto last = [&](int64_t b, int64_t k) {
        const T *x = n.block(n.x, b, k);
        const std::vector<T> scales = n.repeated(&scale[b * C]), shifts = n.repeated(&shift[b * C]);
        const T *a = scales.data(), *d = shifts.data();
        T *out = n.block(y, b, k);
        for (int64_t left = n.length(k) * C; left > 0; left -= W, x += W, out += W) {
            const int64_t m = std::min(left, W);
            if (n.silu) {
#pragma omp simd
                for (int64_t i = 0; i < m; ++i) {
                    const T z = x[i] * a[i] + d[i];
                    out[i] = z * sigmoid(z);
                }
            } else {
#pragma omp simd
                for (int64_t i = 0; i < m; ++i) out[i] = x[i] * a[i] + d[i];
            }
        }
    };
    run(n.batch, n.blocks(), threads, first, middle, last);
}

// dx has the shape of x; d_weight, d_bias and d_offset are (B, C).
template <typename T>
void backward(const Norm<T> &n, const T *dy, T *dx, T *d_weight, T *d_bias, T *d_offset, int64_t threads) {
    const int64_t C = n.channels, W = n.width(), per_group = C / n.groups;
    std::vector<T> sums(n.batch * n.blocks() * 2 * C), standard(n.batch * 2 * C), factors(n.batch * 3 * C);

    // x̂ = x · rstd + q, of each image and channel.
    for (int64_t b = 0; b < n.batch; ++b)
        for (int64_t c = 0; c < C; ++c) {
            const double mean = n.mean[b * n.groups + c / per_group], rstd = n.rstd[b * n.groups + c / per_group];
            standard[b * 2 * C + c] = T(rstd);
            standard[b * 2 * C + C + c] = T(((n.offset ? double(n.offset[b * C + c]) : 0.0) - mean) * rstd);
        }
    // dz into dx, and its sums alone and times x̂.
    auto first = [&](int64_t b, int64_t k) {
        const T *x = n.block(n.x, b, k), *d = n.block(dy, b, k);
        const std::vector<T> r_row = n.repeated(&standard[b * 2 * C]), q_row = n.repeated(&standard[b * 2 * C + C]);
        const std::vector<T> weights = n.repeated(n.row(n.weight, b)), biases = n.repeated(n.row(n.bias, b));
        std::vector<T> ones(W), twos(W);
        const T *r = r_row.data(), *q = q_row.data(), *weight = weights.data(), *bias = biases.data();
        T *out = n.block(dx, b, k), *one = ones.data(), *two = twos.data();
        for (int64_t left = n.length(k) * C; left > 0; left -= W, x += W, d += W, out += W) {
            const int64_t m = std::min(left, W);
            if (n.silu) {
#pragma omp simd
                for (int64_t i = 0; i < m; ++i) {
                    const T normal = x[i] * r[i] + q[i], z = normal * weight[i] + bias[i], s = sigmoid(z);
                    const T dz = d[i] * (s * (T(1) + z * (T(1) - s)));
                    out[i] = dz;
                    one[i] += dz;
                    two[i] += dz * normal;
                }
            } else {
#pragma omp simd
                for (int64_t i = 0; i < m; ++i) {
                    const T dz = d[i];
                    out[i] = dz;
                    one[i] += dz;
                    two[i] += dz * (x[i] * r[i] + q[i]);
                }
            }
        }
        n.fold(ones, &sums[(b * n.blocks() + k) * 2 * C]);
        n.fold(twos, &sums[(b * n.blocks() + k) * 2 * C + C]);
    };
    auto middle = [&](int64_t b) {
        const T *weight = n.row(n.weight, b);
        const double count = double(n.pixels);
        for (int64_t g = 0; g < n.groups; ++g) {
            const double rstd = n.rstd[b * n.groups + g];
            double one_sum = 0, two_sum = 0;
            for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) {
                double one = 0, two = 0;
                for (int64_t k = 0; k < n.blocks(); ++k) {
                    one += sums[(b * n.blocks() + k) * 2 * C + c];
                    two += sums[(b * n.blocks() + k) * 2 * C + C + c];
                }
                d_bias[b * C + c] = T(one);
                d_weight[b * C + c] = T(two);
                one_sum += weight[c] * one;
                two_sum += weight[c] * two;
            }
            one_sum /= count * double(per_group);
            two_sum /= count * double(per_group);
            for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) {
                T *factor = &factors[b * 3 * C + c];
                factor[0] = T(rstd * weight[c]);
                factor[C] = T(-rstd * two_sum * rstd);
                factor[2 * C] = T(-rstd * (one_sum + two_sum * double(standard[b * 2 * C + C + c])));
                if (d_offset)
                    d_offset[b * C + c] = T(rstd * (weight[c] * double(d_bias[b * C + c]) - count * one_sum -
                                                    two_sum * count * double(n.channel_mean[b * C + c]) * rstd));
            }
        }
    };
    auto last = [&](int64_t b, int64_t k) {
        const T *x = n.block(n.x, b, k), *factor = &factors[b * 3 * C];
        const std::vector<T> of_dz = n.repeated(factor), of_x = n.repeated(factor + C), rest = n.repeated(factor + 2 * C);
        const T *f = of_dz.data(), *e = of_x.data(), *h = rest.data();
        T *out = n.block(dx, b, k);
        for (int64_t left = n.length(k) * C; left > 0; left -= W, x += W, out += W)
#pragma omp simd
            for (int64_t i = 0; i < std::min(left, W); ++i) out[i] = out[i] * f[i] + x[i] * e[i] + h[i];
    };
    run(n.batch, n.blocks(), threads, first, middle, last);
}

}  // namespace

#define INTERFACE(NAME, T)                                                                                             \
    extern "C" void group_norm_forward_##NAME(                                                                         \
        const T *x, const T *offset, const T *weight, const T *bias, int64_t batch, int64_t pixels, int64_t channels,  \
        int64_t groups, int64_t weight_rows, double eps, int64_t silu, T *mean, T *rstd, T *channel_mean, T *y,        \
        int64_t threads) {                                                                                             \
        forward<T>({x, offset, weight, bias, batch, pixels, channels, groups, weight_rows, eps, silu != 0, mean, rstd, \
                    channel_mean},                                                                                     \
                   y, threads);                                                                                        \
    }                                                                                                                  \
    extern "C" void group_norm_backward_##NAME(                                                                        \
        const T *x, const T *offset, const T *weight, const T *bias, int64_t batch, int64_t pixels, int64_t channels,  \
        int64_t groups, int64_t weight_rows, double eps, int64_t silu, T *mean, T *rstd, T *channel_mean, const T *dy, \
        T *dx, T *d_weight, T *d_bias, T *d_offset, int64_t threads) {                                                 \
        backward<T>({x, offset, weight, bias, batch, pixels, channels, groups, weight_rows, eps, silu != 0, mean,      \
                     rstd, channel_mean},                                                                              \
                    dy, dx, d_weight, d_bias, d_offset, threads);                                                      \
    }

INTERFACE(float, float)
INTERFACE(double, double)
