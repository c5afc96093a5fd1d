// The twin of the CUDA kernels for a CPU: the same entries, the same rules (semantics.h), plain loops. It is what the laws are
// proved on where there is no GPU, and what the trainer runs on there. One thread: results cannot depend on how many there are.
#include <algorithm>
#include <numeric>
#include <vector>

#include "entries.h"

using namespace moe;

namespace {

// --- gate -------------------------------------------------------------------------------------------------------------
template <typename F> struct Scores {  // of one token
  F top, sum, lse;                     // largest logit, sum of exp(logit - top), log of the sum of exp(logit)
  F total;                             // what shares are divided by: of a softmax 1

  Scores(const F* logits, const Router& r, F* scores) {
    top = *std::max_element(logits, logits + r.experts);
    sum = 0;
    for (int e = 0; e < r.experts; ++e) sum += exp(logits[e] - top);
    lse = top + log(sum);
    total = r.sigmoid ? F(0) : F(1);
    for (int e = 0; e < r.experts; ++e) {
      scores[e] = r.sigmoid ? sigmoid(logits[e]) : exp(logits[e] - top) / sum;
      if (r.sigmoid) total += scores[e];
    }
  }
};

template <typename F> void choose(const Router& r, const F* logits, const F* scores, const F* bias, int32_t* chosen) {
  using Key = decltype(order_key(F(0)));
  Key keys[MAX_EXPERTS], of_group[MAX_EXPERTS];
  const F* eligible = r.sigmoid || bias ? scores : logits;
  for (int e = 0; e < r.experts; ++e) keys[e] = order_key(bias ? eligible[e] + bias[e] : eligible[e]);
  if (r.groups > 1) {
    const int size = r.experts / r.groups;
    for (int g = 0; g < r.groups; ++g) {
      Key best = 0, second = 0;
      for (int e = g * size; e < (g + 1) * size; ++e) {
        if (keys[e] > best) second = best, best = keys[e];
        else if (keys[e] > second) second = keys[e];
      }
      of_group[g] = group_key(best, second, r.top2);
    }
    for (int g = 0; g < r.groups; ++g) {
      int rank = 0;
      for (int other = 0; other < r.groups; ++other) rank += before(of_group[other], other, of_group[g], g);
      if (rank >= r.top_groups) std::fill(keys + g * size, keys + (g + 1) * size, Key(0));
    }
  }
  for (int j = 0; j < r.k; ++j) {
    int best = 0;
    for (int e = 1; e < r.experts; ++e)
      if (keys[e] > keys[best]) best = e;
    chosen[j] = best;
    keys[best] = 0;
  }
}

struct Segments {
  const int32_t* of;
  int64_t length;
  Segments(const int32_t* of, const Router& r, int64_t tokens) : of(of), length(tokens / r.segments) {}
  int64_t operator()(int64_t t) const { return of ? of[t] : t / length; }
};

template <typename F>
int gate_forward(
    const F* logits, const F* bias, const int32_t* of, int32_t* experts, F* weights, F* losses, F* balance, const Router& r,
    int64_t tokens) {
  std::vector<double> share(static_cast<size_t>(r.segments) * r.experts);
  std::vector<int> sent(share.size()), received(static_cast<size_t>(r.segments) * r.devices), length(r.segments);
  const Segments segment(of, r, tokens);
  const int per_device = r.experts / r.devices;
  double z = 0;
  F scores[MAX_EXPERTS];
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t s = segment(t);
    if (s < 0 || s >= r.segments || (of && t && of[t] < of[t - 1])) return BAD_SEGMENT;
    Scores<F> token(logits + t * r.experts, r, scores);
    int32_t* chosen = experts + t * r.k;
    choose(r, logits + t * r.experts, scores, bias, chosen);
    F sum = 0;
    for (int j = 0; j < r.k; ++j) sum += scores[chosen[j]];
    for (int j = 0; j < r.k; ++j) {
      const F w = r.renormalize ? scores[chosen[j]] / (sum + F(TINY)) : scores[chosen[j]];
      weights[t * r.k + j] = w * F(r.scale);
      ++sent[s * r.experts + chosen[j]];
      bool first = true;
      for (int i = 0; i < j; ++i) first &= chosen[i] / per_device != chosen[j] / per_device;
      received[s * r.devices + chosen[j] / per_device] += first;
    }
    for (int e = 0; e < r.experts; ++e) share[s * r.experts + e] += scores[e] / token.total;
    ++length[s];
    z += static_cast<double>(token.lse) * token.lse;
  }
  double sums[3] = {0, 0, 0};
  for (int s = 0; s < r.segments; ++s) {
    F* f = balance + static_cast<int64_t>(s) * 3 * r.experts;
    for (int d = 0; d < r.devices; ++d) {
      double mean = 0, there = 0;
      const double f2 = received_share<double>(r, received[s * r.devices + d], length[s]);
      for (int e = d * per_device; e < (d + 1) * per_device; ++e) {
        const double own = sent_share<double>(r, sent[s * r.experts + e], length[s]);
        const double p = tokens ? share[s * r.experts + e] / static_cast<double>(tokens) : 0;
        sums[0] += own * p;
        mean += own / per_device;
        there += p;
        f[e] = static_cast<F>(own);
        f[2 * r.experts + e] = static_cast<F>(f2);
      }
      for (int e = d * per_device; e < (d + 1) * per_device; ++e) f[r.experts + e] = static_cast<F>(mean);
      sums[1] += mean * there;
      sums[2] += f2 * there;
    }
  }
  for (int i = 0; i < 3; ++i) losses[i] = static_cast<F>(sums[i]);
  losses[3] = static_cast<F>(tokens ? z / static_cast<double>(tokens) : 0);
  return OK;
}

template <typename F>
void gate_backward(
    const F* logits, const int32_t* of, const int32_t* experts, const F* balance, const F* dweights, const F* dlosses,
    F* dlogits, const Router& r, int64_t tokens) {
  const Segments segment(of, r, tokens);
  const F per_token = F(1) / F(tokens);
  F scores[MAX_EXPERTS], d[MAX_EXPERTS];
  for (int64_t t = 0; t < tokens; ++t) {
    const F* row = logits + t * r.experts;
    Scores<F> token(row, r, scores);
    const F* f = balance + segment(t) * 3 * r.experts;
    F inner = 0;
    for (int e = 0; e < r.experts; ++e) {
      d[e] = share_gradient(f[e], f[r.experts + e], f[2 * r.experts + e], dlosses, per_token);
      inner += d[e] * scores[e] / token.total;
    }
    if (r.sigmoid)  // from shares to scores
      for (int e = 0; e < r.experts; ++e) d[e] = (d[e] - inner) / token.total;
    const int32_t* chosen = experts + t * r.k;
    const F* dw = dweights + t * r.k;
    F sum = 0, dot = 0;
    for (int j = 0; j < r.k; ++j) sum += scores[chosen[j]], dot += scores[chosen[j]] * dw[j];
    for (int j = 0; j < r.k; ++j) {
      const F direct = r.renormalize ? (dw[j] - dot / (sum + F(TINY))) / (sum + F(TINY)) : dw[j];
      d[chosen[j]] += direct * F(r.scale);
    }
    inner = 0;
    if (!r.sigmoid)
      for (int e = 0; e < r.experts; ++e) inner += d[e] * scores[e];
    const F dz = 2 * dlosses[3] * token.lse * per_token;
    for (int e = 0; e < r.experts; ++e) {
      const F slope = r.sigmoid ? scores[e] * (F(1) - scores[e]) * d[e] : scores[e] * (d[e] - inner);
      dlogits[t * r.experts + e] = slope + dz * (r.sigmoid ? exp(row[e] - token.top) / token.sum : scores[e]);
    }
  }
}

// --- rows -------------------------------------------------------------------------------------------------------------
int64_t living(const int32_t* live, int64_t rows) { return live ? *live : rows; }

template <typename R>
void combine(
    const R* y, const wide_t<R>* weights, const R* shared, const int32_t* pos, int64_t live, R* z, int64_t tokens, int k,
    int64_t hidden) {
  std::vector<wide_t<R>> sum(hidden);
  for (int64_t t = 0; t < tokens; ++t) {
    std::fill(sum.begin(), sum.end(), wide_t<R>(0));
    for (int j = 0; j < k; ++j) {
      const int64_t row = pos[t * k + j];
      if (row >= live) continue;
      const wide_t<R> w = weights ? weights[t * k + j] : wide_t<R>(1);
      const R* from = y + row * hidden;
      for (int64_t h = 0; h < hidden; ++h) sum[h] += w * widen(from[h]);
    }
    for (int64_t h = 0; h < hidden; ++h) {
      const wide_t<R> v = shared ? sum[h] + widen(shared[t * hidden + h]) : sum[h];
      z[t * hidden + h] = narrow<R>(v);
    }
  }
}

template <typename R>
void combine_backward(
    const R* dz, const R* y, const wide_t<R>* weights, const int32_t* pos, int64_t live, R* dy, wide_t<R>* dweights,
    int64_t tokens, int k, int64_t hidden) {
  for (int64_t n = 0; n < tokens * k; ++n) {
    const int64_t row = pos[n];
    const R* up = dz + n / k * hidden;
    R* out = dy + row * hidden;
    dweights[n] = 0;
    if (row >= live) {
      std::fill(out, out + hidden, narrow<R>(0));
      continue;
    }
    wide_t<R> dot = 0;
    for (int64_t h = 0; h < hidden; ++h) {
      const wide_t<R> v = widen(up[h]);
      dot += v * widen(y[row * hidden + h]);
      out[h] = narrow<R>(weights[n] * v);
    }
    dweights[n] = dot;
  }
}

template <typename R>
void swiglu(const R* gate_up, const wide_t<R>* weights, const int32_t* src, int64_t live, R* out, int64_t rows, int64_t inner) {
  for (int64_t n = 0; n < rows; ++n) {
    const R *gate = gate_up + n * 2 * inner, *up = gate + inner;
    for (int64_t i = 0; i < inner; ++i) {
      const wide_t<R> v = n < live ? silu(widen(gate[i])) * widen(up[i]) * weights[src[n]] : wide_t<R>(0);
      out[n * inner + i] = narrow<R>(v);
    }
  }
}

template <typename R>
void swiglu_backward(
    const R* dout, const R* gate_up, const wide_t<R>* weights, const int32_t* src, int64_t live, R* dgate_up,
    wide_t<R>* dweights, int64_t rows, int64_t inner) {
  for (int64_t n = 0; n < rows; ++n) {
    const R *gate = gate_up + n * 2 * inner, *up = gate + inner;
    R *dgate = dgate_up + n * 2 * inner, *dup = dgate + inner;
    wide_t<R> dot = 0;
    for (int64_t i = 0; i < inner; ++i) {
      wide_t<R> dg = 0, du = 0;
      if (n < live) {
        const wide_t<R> d = widen(dout[n * inner + i]), g = widen(gate[i]), u = widen(up[i]), w = weights[src[n]];
        const wide_t<R> a = silu(g);
        dot += d * a * u;
        dg = d * w * u * silu_gradient(g);
        du = d * w * a;
      }
      dgate[i] = narrow<R>(dg);
      dup[i] = narrow<R>(du);
    }
    dweights[src[n]] = dot;
  }
}

template <typename F>
void drop(
    const int32_t* experts, const F* weights, const uint8_t* exempt, int32_t* kept, F* kept_weights, int64_t slots,
    int sequences, int count, int devices, int room) {
  const int64_t each = slots / sequences;
  std::vector<int64_t> order(each);
  std::vector<int> taken(devices);
  for (int s = 0; s < sequences; ++s) {
    const int64_t begin = s * each;
    std::iota(order.begin(), order.end(), begin);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return order_key(weights[a]) > order_key(weights[b]); });
    std::fill(taken.begin(), taken.end(), 0);
    for (const int64_t n : order) {
      const bool stays = taken[experts[n] / (count / devices)]++ < room || (exempt && exempt[s]);
      kept[n] = stays ? experts[n] : count;
      kept_weights[n] = stays ? weights[n] : F(0);
    }
  }
}

// Calls f with a null pointer of the rows' type.
template <typename Call> int by_format(int format, Call&& f) {
  switch (format) {
    case F64: return f(static_cast<double*>(nullptr)), OK;
    case F32: return f(static_cast<float*>(nullptr)), OK;
    case BF16: return f(static_cast<bf16*>(nullptr)), OK;
    case F16: return f(static_cast<f16*>(nullptr)), OK;
    default: return BAD_FORMAT;
  }
}

}  // namespace

#define ROWS std::remove_pointer_t<decltype(type)>
#define AS(p) static_cast<const ROWS*>(p)
#define INTO(p) static_cast<ROWS*>(p)
#define WIDE(p) static_cast<const wide_t<ROWS>*>(p)
#define INTO_WIDE(p) static_cast<wide_t<ROWS>*>(p)

int moe_version() { return MOE_VERSION; }
int64_t moe_gate_scratch(const Router*, int64_t) { return 0; }
int64_t moe_route_scratch(int64_t, int, int) { return 0; }

int moe_gate_forward(
    const void* logits, const void* bias, const int32_t* of, int32_t* experts, void* weights, void* losses, void* balance,
    void*, const Router* r, int64_t tokens, int format, void*) {
  if (!fits(*r, tokens) || (!of && tokens % r->segments)) return BAD_SHAPE;
  auto run = [&](auto type) {
    return gate_forward(AS(logits), AS(bias), of, experts, INTO(weights), INTO(losses), INTO(balance), *r, tokens);
  };
  if (format == F64) return run(static_cast<double*>(nullptr));
  return format == F32 ? run(static_cast<float*>(nullptr)) : BAD_FORMAT;
}

int moe_gate_backward(
    const void* logits, const int32_t* of, const int32_t* experts, const void* balance, const void* dweights,
    const void* dlosses, void* dlogits, const Router* r, int64_t tokens, int format, void*) {
  if (!fits(*r, tokens) || (!of && tokens % r->segments)) return BAD_SHAPE;
  for (int64_t t = 0; of && t < tokens; ++t)
    if (of[t] < 0 || of[t] >= r->segments) return BAD_SEGMENT;
  auto run = [&](auto type) {
    gate_backward(AS(logits), of, experts, AS(balance), AS(dweights), AS(dlosses), INTO(dlogits), *r, tokens);
  };
  if (format == F64) return run(static_cast<double*>(nullptr)), OK;
  return format == F32 ? (run(static_cast<float*>(nullptr)), OK) : BAD_FORMAT;
}

int moe_drop(
    const int32_t* experts, const void* weights, const uint8_t* exempt, int32_t* kept, void* kept_weights, int64_t tokens,
    int k, int count, int devices, int sequences, int room, int format, void*) {
  if (!fits(tokens, k) || sequences < 1 || tokens % sequences || devices < 1 || count % devices || room < 0) return BAD_SHAPE;
  for (int64_t n = 0; n < tokens * k; ++n)
    if (experts[n] < 0 || experts[n] >= count) return BAD_EXPERT;
  auto run = [&](auto type) {
    drop(experts, AS(weights), exempt, kept, INTO(kept_weights), tokens * k, sequences, count, devices, room);
  };
  if (format == F64) return run(static_cast<double*>(nullptr)), OK;
  return format == F32 ? (run(static_cast<float*>(nullptr)), OK) : BAD_FORMAT;
}

int moe_route(
    const int32_t* experts, int32_t* offs, int32_t* pos, int32_t* src, void*, int64_t tokens, int k, int count, void*) {
  if (!fits(tokens, k) || count < 1 || count > MAX_EXPERTS) return BAD_SHAPE;
  std::vector<int32_t> next(count + 2);
  for (int64_t n = 0; n < tokens * k; ++n) {
    if (experts[n] < 0 || experts[n] > count) return BAD_EXPERT;
    ++next[experts[n] + 1];
  }
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::copy(next.begin(), next.begin() + count + 1, offs);
  for (int64_t n = 0; n < tokens * k; ++n) {
    pos[n] = next[experts[n]]++;
    src[pos[n]] = static_cast<int32_t>(n);
  }
  return OK;
}

int moe_permute(
    const void* x, const int32_t* pos, const int32_t* live, void* y, int64_t tokens, int k, int hidden, int format, void*) {
  if (!fits(tokens, k) || hidden < 1) return BAD_SHAPE;
  const int64_t alive = living(live, tokens * k);
  return by_format(format, [&](auto type) {
    for (int64_t n = 0; n < tokens * k; ++n) {
      ROWS* to = INTO(y) + static_cast<int64_t>(pos[n]) * hidden;
      if (pos[n] < alive) std::copy_n(AS(x) + n / k * hidden, hidden, to);
      else std::fill_n(to, hidden, narrow<ROWS>(0));
    }
  });
}

int moe_combine(
    const void* y, const void* weights, const void* shared, const int32_t* pos, const int32_t* live, void* z, int64_t tokens,
    int k, int hidden, int format, void*) {
  if (!fits(tokens, k) || hidden < 1) return BAD_SHAPE;
  return by_format(format, [&](auto type) {
    combine(AS(y), WIDE(weights), AS(shared), pos, living(live, tokens * k), INTO(z), tokens, k, hidden);
  });
}

int moe_combine_backward(
    const void* dz, const void* y, const void* weights, const int32_t* pos, const int32_t* live, void* dy, void* dweights,
    int64_t tokens, int k, int hidden, int format, void*) {
  if (!fits(tokens, k) || hidden < 1) return BAD_SHAPE;
  return by_format(format, [&](auto type) {
    combine_backward(
        AS(dz), AS(y), WIDE(weights), pos, living(live, tokens * k), INTO(dy), INTO_WIDE(dweights), tokens, k, hidden);
  });
}

int moe_swiglu_weighted(
    const void* gate_up, const void* weights, const int32_t* src, const int32_t* live, void* out, int64_t rows, int inner,
    int format, void*) {
  if (rows < 0 || rows >= 1ll << 31 || inner < 1) return BAD_SHAPE;
  return by_format(format, [&](auto type) {
    swiglu(AS(gate_up), WIDE(weights), src, living(live, rows), INTO(out), rows, inner);
  });
}

int moe_swiglu_weighted_backward(
    const void* dout, const void* gate_up, const void* weights, const int32_t* src, const int32_t* live, void* dgate_up,
    void* dweights, int64_t rows, int inner, int format, void*) {
  if (rows < 0 || rows >= 1ll << 31 || inner < 1) return BAD_SHAPE;
  return by_format(format, [&](auto type) {
    swiglu_backward(AS(dout), AS(gate_up), WIDE(weights), src, living(live, rows), INTO(dgate_up), INTO_WIDE(dweights), rows, inner);
  });
}
