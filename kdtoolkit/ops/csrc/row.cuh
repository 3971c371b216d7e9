// The loss and the gradient of one row: the mathematics of the op, written once for every processor.
//
// A "team" holds the row's columns: 8 or 16 lanes of a CPU vector, a group of CUDA threads, a CUDA block. Or it is a
// CPU vector each of whose lanes is a row of its own. What is written here is what one member does; X is its number
// (float, double or a vector of them), M the result of a comparison of two. A team offers
//
//   z(at), v(at, k)        logits of the student and of member k of the teacher at a position; beyond the row -inf
//   is_label(at)           whether that position is the row's label
//   z_label()              the student's logit at the label
//   columns()              how many columns the row has
//   members(), share(k)    of the ensemble; shares sum to one
//   normaliser(f, scale, out)            maximum and sum of exp((f(at) - maximum) * scale) over the row
//   normalisers(f, scale, out, plain)    the same, and with scale 1, in one reading
//   sum<n>(f, out)         f(at, terms) sets n terms; their sums over the row
//   map<n>(f, out)         the same, and what f returns is stored as the gradient, if one is wanted
//   wants_gradient
//
// and, if `Team::sparse`, for a teacher that lists some classes only (positions `b` are places in the list):
//
//   listed()               how many classes are listed
//   listed_z(b), listed_log(b)           the student's logit, and the log-probability, of a listed class
//   listed_is_label(b)
//   listed_normaliser(f, scale, out), listed_sum<n>(f, out)     as above, over the list
//   unlisted_sum<n>(f, out)              over the columns that are not in the list
//   unlisted_map(f), listed_map(f)       store the gradient of the classes that are not in the list, and of those that are
//
// The gradient may be the student's own memory: what is read of a column after it was stored is not its logit any more.
//
// Notation: q, p are the softened distributions of student and teacher, log_q, log_p their logarithms. A term whose
// probability is 0 is 0, whatever its logarithm. Rows that do not count never come here.
#ifndef KDTOOLKIT_ROW
#define KDTOOLKIT_ROW

namespace KD_NAMESPACE {

template <class X> struct kd_parts { X soft, hard; };  // of the loss, before alpha, weight and T squared

// maximum, 1 / (sum of exponentials), log of that sum; kept apart, for their sum would lose the small one's digits.
template <class X> struct kd_norm { X maximum, inverse, log; };

template <class X, class M> struct kd_row_values {
    X scale;           // 1 / temperature
    X beta;
    X soft_gradient;   // what the slope of the soft part is multiplied by; 0 where the row has none
    X hard_gradient;   // the same of the hard part
    M soft, hard;      // whether the row has the part
};

template <class X> KD_FN X kd_product(X probability, X value) {
    return select(probability == X(0), X(0), probability * value);
}

template <class X> KD_FN X kd_log_add(X a, X b) {  // log(exp a + exp b); -inf if both are
    X top = larger(a, b), low = select(a < b, a, b);
    return select(low == -kd_constant<X>::infinity(), top, top + logarithm_1p(exponential(low - top)));
}

// p d - p + q with d = log p - log q: a column's part of KL(p|q). The - p + q sum to 0 and make every part >= 0, so that
// a small divergence is no difference of large sums. Where d is small it is p (d + exp(-d) - 1) by its series.
template <class X> KD_FN X kd_relative_entropy(X p, X q, X d) {
    X small = kd_constant<X>::small(), near = X(1.0 / 720) - d * X(1.0 / 5040);
    near = X(1.0 / 24) - d * (X(1.0 / 120) - d * near);
    near = p * d * d * (X(0.5) - d * (X(1.0 / 6) - d * near));
    return select(absolute(d) < small, near, kd_product(p, d) - p + q);
}

// What a column or a bucket adds to the loss (terms[0]) and to the number that all slopes of a row need (terms[1]).
template <class X> KD_FN void kd_terms(int kind, X q, X log_q, X p, X log_p, X beta, X (&terms)[2]) {
    terms[1] = X(0);
    if (kind == KD_CE) {
        terms[0] = -kd_product(p, log_q);
    } else if (kind == KD_KL) {
        terms[0] = kd_relative_entropy(p, q, log_p - log_q);
    } else if (kind == KD_RKL) {
        terms[0] = terms[1] = kd_product(q, log_q - log_p);
    } else if (kind == KD_JSD) {
        X middle = kd_log_add(logarithm(beta) + log_p, logarithm(X(1) - beta) + log_q);
        terms[1] = kd_product(q, log_q - middle);
        terms[0] = beta * kd_product(p, log_p - middle) + (X(1) - beta) * terms[1];
    } else {  // KD_TVD
        terms[0] = absolute(q - p) * X(0.5);
        terms[1] = select(q == p, X(0), select(p < q, q, -q));
    }
}

// The derivative of the sum of the terms by the bucket's logit over T; `row` is the sum of terms[1].
template <class X> KD_FN X kd_slope(int kind, X q, X log_q, X p, X log_p, X beta, X row) {
    if (kind == KD_RKL) return kd_product(q, log_q - log_p - row);
    if (kind == KD_JSD) {
        X middle = kd_log_add(logarithm(beta) + log_p, logarithm(X(1) - beta) + log_q);
        return (X(1) - beta) * kd_product(q, log_q - middle - row);
    }
    if (kind == KD_TVD) return X(0.5) * q * (select(q == p, X(0), select(p < q, X(1), X(-1))) - row);
    return q - p;
}

// The hard part of the gradient at a position, from z minus the student's maximum.
template <class Team, class At, class X>
KD_FN X kd_hard_slope(const Team& team, At at, X shifted, const kd_norm<X>& plain) {
    X q = exponential(shifted) * plain.inverse;
    return select(team.is_label(at), q - X(1), q);
}

// No soft part.
template <class Team, class Row> KD_FN kd_parts<typename Team::X> kd_hard_row(Team& team, const Row& row) {
    typedef typename Team::X X;
    kd_norm<X> plain;
    team.normaliser([&](auto at) { return team.z(at); }, X(1), plain);
    X none[1], label = team.z_label();
    if (team.wants_gradient)
        team.template map<0>([&](auto at, X(&)[1]) {
            return kd_hard_slope(team, at, team.z(at) - plain.maximum, plain) * row.hard_gradient;
        }, none);
    return {X(0), plain.log - (label - plain.maximum)};
}

// The hard part's exponential in the hot path, from exp(shifted / T): at some temperatures it is there already.
enum { KD_NO_HARD, KD_HARD, KD_HARD_AT_1, KD_HARD_AT_2 };
template <int HARD, class X> KD_FN X kd_plain_exponential(X softened, X shifted) {
    if (HARD == KD_HARD_AT_1) return softened;
    if (HARD == KD_HARD_AT_2) return softened * softened;
    return power_of_two(shifted * X(KD_LOG2E));
}

// The normalisers of the hot path. A team that reads both matrices at once has one of its own.
template <int HARD, class Team, class X>
KD_FN void kd_hot_norms(Team& team, X scale, kd_norm<X>& student, kd_norm<X>& plain, kd_norm<X>& teacher) {
    auto z = [&](auto at) { return team.z(at); };
    if (HARD) team.normalisers(z, scale, student, plain);
    else team.normaliser(z, scale, student);
    team.normaliser([&](auto at) { return team.v(at, 0); }, scale, teacher);
}

// Cross-entropy and KL of one dense teacher, the hot path: one reading for the normalisers, one for loss and gradient.
template <bool KL, int HARD, class Team, class Row>
KD_FN kd_parts<typename Team::X> kd_hot_row(Team& team, const Row& row) {
    typedef typename Team::X X;
    kd_norm<X> student, plain = {X(0), X(0), X(0)}, teacher;
    kd_hot_norms<HARD>(team, row.scale, student, plain, teacher);
    // In powers of two: q = 2^t / sum, log q = t log 2 - log sum.
    const X binary = row.scale * X(KD_LOG2E), natural = X(KD_LN2), gap = student.log - teacher.log;
    X loss[1], label = HARD ? team.z_label() : X(0);
    team.template map<1>([&](auto at, X (&terms)[1]) {
        X shifted = team.z(at) - student.maximum, t = shifted * binary;
        X u = (team.v(at, 0) - teacher.maximum) * binary;
        X e = power_of_two(t), q = e * student.inverse, p = power_of_two(u) * teacher.inverse;
        if (KL) terms[0] = kd_relative_entropy(p, q, (u - t) * natural + gap);
        else terms[0] = kd_product(p, student.log - t * natural);
        X slope = (q - p) * row.soft_gradient;
        if (HARD) {
            X hard = kd_plain_exponential<HARD>(e, shifted) * plain.inverse;
            slope = slope + select(team.is_label(at), hard - X(1), hard) * row.hard_gradient;
        }
        return slope;
    }, loss);
    return {loss[0], HARD ? plain.log - (label - student.maximum) : X(0)};
}

// The mixture of an ensemble's distributions, or the one distribution.
template <class Team> struct kd_mixture {
    typedef typename Team::X X;
    const Team& team;
    const X scale;
    X maxima[KD_MOST_MEMBERS], offsets[KD_MOST_MEMBERS];  // offset: the logarithm of (sum / share)

    KD_FN kd_mixture(Team& team_, X scale_) : team(team_), scale(scale_) {
        for (int k = 0; k < team.members(); ++k) {
            kd_norm<X> norm;
            team_.normaliser([&](auto at) { return read(at, k); }, scale, norm);
            maxima[k] = norm.maximum;
            offsets[k] = team.members() == 1 ? norm.log : norm.log - logarithm(team.share(k));
        }
    }
    template <class At> KD_FN X read(At at, int k) const {  // a member of share 0 is not read
        return select(team.share(k) == X(0), X(0), team.v(at, k));
    }
    template <class At> KD_FN X log_of(At at, int k) const {
        return (read(at, k) - maxima[k]) * scale - offsets[k];
    }
    // The logarithm only if it is wanted: then from the logarithms, for each probability may be too small for a number.
    template <class At> KD_FN void at(At at, bool wants_log, X& p, X& log_p) const {
        if (team.members() == 1) {
            log_p = log_of(at, 0);
            p = exponential(log_p);
            return;
        }
        X top = -kd_constant<X>::infinity(), sum = X(0);
        if (wants_log)
            for (int k = 0; k < team.members(); ++k) top = larger(log_of(at, k), top);
        X shift = select(top == -kd_constant<X>::infinity(), X(0), top);
        for (int k = 0; k < team.members(); ++k) sum = sum + exponential(log_of(at, k) - shift);
        log_p = wants_log ? shift + logarithm(sum) : X(0);
        p = wants_log ? exponential(shift) * sum : sum;
    }
};

// Any divergence of dense teachers.
template <class Team, class Row>
KD_FN kd_parts<typename Team::X> kd_dense_row(Team& team, const Row& row, int kind) {
    typedef typename Team::X X;
    bool needs_row = kind != KD_CE && kind != KD_KL, has_hard = any(row.hard);
    kd_norm<X> student, plain = {X(0), X(0), X(0)};
    auto z = [&](auto at) { return team.z(at); };
    if (has_hard) team.normalisers(z, row.scale, student, plain);
    else team.normaliser(z, row.scale, student);
    kd_mixture<Team> teacher(team, row.scale);
    X sums[2] = {X(0), X(0)};
    X label = has_hard ? team.z_label() : X(0);
    auto visit = [&](auto at, X (&terms)[2]) {
        X p, log_p, shifted = team.z(at) - student.maximum;
        teacher.at(at, kind != KD_CE && kind != KD_TVD, p, log_p);
        X log_q = shifted * row.scale - student.log, q = exponential(log_q);
        X slope = kd_slope(kind, q, log_q, p, log_p, row.beta, sums[1]) * row.soft_gradient;
        kd_terms(kind, q, log_q, p, log_p, row.beta, terms);
        return has_hard ? slope + kd_hard_slope(team, at, shifted, plain) * row.hard_gradient : slope;
    };
    X again[2];
    if (needs_row) {
        team.template sum<2>([&](auto at, X (&terms)[2]) { visit(at, terms); }, sums);
        if (team.wants_gradient) team.template map<2>(visit, again);
    } else {
        team.template map<2>(visit, again);
        sums[0] = again[0];
    }
    return {sums[0], has_hard ? plain.log - (label - student.maximum) : X(0)};
}

// Squared errors of the logits. A class that both sides mask by -inf is left out.
template <class Team, class Row>
KD_FN kd_parts<typename Team::X> kd_error_row(Team& team, const Row& row, bool centered) {
    typedef typename Team::X X;
    const X masked = -kd_constant<X>::infinity();
    bool has_hard = any(row.hard);
    kd_norm<X> plain = {X(0), X(0), X(0)};
    if (has_hard) team.normaliser([&](auto at) { return team.z(at); }, X(1), plain);
    X label = has_hard ? team.z_label() : X(0);
    auto difference = [&](auto at, X& kept) {
        X z = team.z(at), v = X(0);
        for (int k = 0; k < team.members(); ++k) {
            X share = team.share(k);
            v = v + select(share == X(0), X(0), share * team.v(at, k));
        }
        auto out = (z == masked) & (v == masked);
        kept = select(out, X(0), X(1));
        return select(out, X(0), z - v);
    };
    X sums[2], loss[1];
    team.template sum<2>([&](auto at, X (&terms)[2]) { terms[0] = difference(at, terms[1]); }, sums);
    X each = X(1) / sums[1], mean = centered ? sums[0] * each : X(0);
    team.template map<1>([&](auto at, X (&terms)[1]) {
        X kept, error = difference(at, kept);
        error = select(kept == X(0), X(0), error - mean);
        terms[0] = error * error * each;
        // By select, for a row whose gold part alone counts may mask classes, and infinity times 0 is not a number.
        X slope = select(row.soft, X(2) * error * each * row.soft_gradient, X(0));
        return has_hard ? slope + kd_hard_slope(team, at, team.z(at) - plain.maximum, plain) * row.hard_gradient
                        : slope;
    }, loss);
    return {loss[0], has_hard ? plain.log - (label - plain.maximum) : X(0)};
}

// Independent labels: the mean over the columns of the cross-entropy of sigmoid(z / T) against the members' mean of
// sigmoid(v / T). It has no hard part.
template <class Team, class Row> KD_FN kd_parts<typename Team::X> kd_binary_row(Team& team, const Row& row) {
    typedef typename Team::X X;
    const X each = X(1) / team.columns();
    X loss[1];
    team.template map<1>([&](auto at, X (&terms)[1]) {
        X yes = X(0), no = X(0);
        for (int k = 0; k < team.members(); ++k) {  // both sigmoids as such, so that targets of +-inf are exactly 1, 0
            X share = team.share(k), y = team.v(at, k) * row.scale, e = exponential(-absolute(y));
            X small = e / (X(1) + e), big = X(1) / (X(1) + e);
            yes = yes + select(share == X(0), X(0), share * select(y < X(0), small, big));
            no = no + select(share == X(0), X(0), share * select(y < X(0), big, small));
        }
        X x = team.z(at) * row.scale, e = exponential(-absolute(x)), tail = logarithm_1p(e);
        X up = larger(x, X(0)) + tail, down = larger(-x, X(0)) + tail;  // -log sigmoid(-x), -log sigmoid(x)
        X q = select(x < X(0), e, X(1)) / (X(1) + e), rest = select(x < X(0), X(1), e) / (X(1) + e);
        up = select(x == x, up, x);  // not a number stays so
        terms[0] = (kd_product(yes, down) + kd_product(no, up)) * each;
        return (no * q - yes * rest) * each * row.soft_gradient;
    }, loss);
    return {loss[0], select(row.hard, kd_constant<X>::nan(), X(0))};
}

// A teacher that lists some classes. What it does not list is one more bucket, or spread, or left out.
template <class Team, class Row>
KD_FN kd_parts<typename Team::X> kd_sparse_row(Team& team, const Row& row, int kind, int tail) {
    typedef typename Team::X X;
    const X infinity = kd_constant<X>::infinity();
    bool has_hard = any(row.hard);
    kd_norm<X> student, plain;
    team.normalisers([&](auto at) { return team.z(at); }, row.scale, student, plain);
    X maximum = student.maximum, label = has_hard ? team.z_label() : X(0);
    if (tail == KD_RENORM)
        team.listed_normaliser([&](auto b) { return team.listed_z(b); }, row.scale, student);
    auto log_q = [&](X z) { return (z - student.maximum) * row.scale - student.log; };

    // The teacher's logarithms are made to sum to one only where the list is all there is.
    kd_norm<X> whole = {X(0), X(1), X(0)};
    if (tail == KD_RENORM) team.listed_normaliser([&](auto b) { return team.listed_log(b); }, X(1), whole);
    auto log_p = [&](auto b) { return team.listed_log(b) - whole.maximum - whole.log; };

    X mass[1], sums[2] = {X(0), X(0)}, others[2] = {X(0), X(0)};
    team.template listed_sum<1>([&](auto b, X (&terms)[1]) { terms[0] = exponential(log_p(b)); }, mass);
    X unlisted = team.columns() - X(team.listed()), rest = larger(X(1) - mass[0], X(0));
    rest = select(unlisted == X(0), X(0), rest);
    X log_rest = logarithm(rest);
    // What the teacher's probabilities add up to: 1, unless they come so (rounded, or a list of all classes short of 1).
    X total = tail == KD_TRUNCATED ? mass[0] : mass[0] + rest;
    auto slope_of = [&](X q, X lq, X p, X lp) {
        return kd_slope(kind, kind == KD_CE || kind == KD_KL ? q * total : q, lq, p, lp, row.beta, sums[1]);
    };
    team.template listed_sum<2>([&](auto b, X (&terms)[2]) {
        X lp = log_p(b), lq = log_q(team.listed_z(b)), p = exponential(lp);
        if (tail == KD_TRUNCATED) {  // no distributions, so no form that needs their sums to be one
            terms[0] = kind == KD_KL ? kd_product(p, lp - lq) : -kd_product(p, lq);
            terms[1] = X(0);
        } else {
            kd_terms(kind, exponential(lq), lq, p, lp, row.beta, terms);
        }
    }, sums);

    X log_q_rest = X(0), log_even = X(0), slope_rest = X(0);
    if (tail == KD_BUCKET) {
        // Summed over the classes that are not listed: 1 - (sum of the listed) would cancel where they hold nearly all.
        X open[1];
        team.template unlisted_sum<1>([&](auto at, X (&terms)[1]) {
            terms[0] = exponential((team.z(at) - student.maximum) * row.scale);
        }, open);
        log_q_rest = logarithm(open[0]) - student.log;
        kd_terms(kind, exponential(log_q_rest), log_q_rest, rest, log_rest, row.beta, others);
    } else if (tail == KD_UNIFORM) {
        log_even = select(log_rest == -infinity, log_rest, log_rest - logarithm(unlisted));
        team.template unlisted_sum<2>([&](auto at, X (&terms)[2]) {
            X lq = log_q(team.z(at));
            kd_terms(kind, exponential(lq), lq, exponential(log_even), log_even, row.beta, terms);
        }, others);
    }
    sums[0] = sums[0] + others[0];
    sums[1] = sums[1] + others[1];
    if (tail == KD_BUCKET)
        slope_rest = slope_of(exponential(log_q_rest), log_q_rest, rest, log_rest);

    if (team.wants_gradient) {
        team.unlisted_map([&](auto at) {
            X z = team.z(at), lq = log_q(z), slope = X(0);
            if (tail == KD_BUCKET)  // a masked class has no part in the bucket, even if the bucket has no other
                slope = select(lq == -infinity, X(0), slope_rest * exponential(lq - log_q_rest));
            else if (tail == KD_TRUNCATED) slope = total * exponential(lq);
            else if (tail == KD_UNIFORM) slope = slope_of(exponential(lq), lq, exponential(log_even), log_even);
            slope = slope * row.soft_gradient;
            return has_hard ? slope + kd_hard_slope(team, at, z - maximum, plain) * row.hard_gradient : slope;
        });
        team.listed_map([&](auto b) {
            X z = team.listed_z(b), lq = log_q(z), lp = log_p(b);
            X slope = slope_of(exponential(lq), lq, exponential(lp), lp) * row.soft_gradient;
            if (!has_hard) return slope;
            X hard = exponential(z - maximum) * plain.inverse;
            return slope + select(team.listed_is_label(b), hard - X(1), hard) * row.hard_gradient;
        });
    }
    return {sums[0], has_hard ? plain.log - (label - maximum) : X(0)};
}

// Everything but the hot path, and the hot path too.
template <class Team, class Row>
KD_FN kd_parts<typename Team::X> kd_any_row(Team& team, const Row& row, int kind, int tail) {
    if (!any(row.soft)) return kd_hard_row(team, row);
    if constexpr (Team::sparse)
        if (tail != KD_DENSE) return kd_sparse_row(team, row, kind, tail);
    if (kind == KD_MSE || kind == KD_MSE_CENTERED) return kd_error_row(team, row, kind == KD_MSE_CENTERED);
    if (kind == KD_BCE) return kd_binary_row(team, row);
    return kd_dense_row(team, row, kind);
}

// What a row was asked, worked out of the call by one member for one row; A is float or double.
template <class A> struct kd_asked {
    int kind;
    bool counts, soft, hard;
    A temperature, alpha, beta, weight;
    kd_int label;      // -1: none, or one outside the row's columns
    kd_int start, count;
    A soft_gradient, hard_gradient, soft_scale;  // soft_scale: T squared or 1
    bool impossible;  // a kind or columns that do not exist, where nobody looked: the row is not a number
};

template <class A> KD_FN A kd_of_row(const void* values, double value, kd_int row) {
    return values ? ((const A*)values)[row] : (A)value;
}

// Whether a row counts, and its weight: all that the normaliser of a mean needs.
template <class A> KD_FN bool kd_counts(const kd_call& call, kd_int row, A& weight, bool& labelled, kd_int& label) {
    weight = kd_of_row<A>(call.weights, call.weight, row);
    A alpha = kd_of_row<A>(call.alphas, call.alpha, row);
    label = -1;
    labelled = false;
    if (call.labels) {
        label = call.label_bytes == 8 ? ((const kd_int*)call.labels)[row] : (kd_int)((const int*)call.labels)[row];
        labelled = label != call.ignore_index && alpha > A(0);
        if (call.ignore_row && !labelled && alpha != A(0)) return false;
    }
    return weight != A(0);
}

// `scale`: 1 / normaliser. The incoming gradient is read here, so that it is folded in before any rounding.
template <class A> KD_FN kd_asked<A> kd_ask(const kd_call& call, kd_int row, A scale) {
    kd_asked<A> asked;
    bool labelled;
    asked.counts = kd_counts<A>(call, row, asked.weight, labelled, asked.label);
    asked.kind = (int)(call.kinds ? call.kinds[row] : call.kind);
    asked.temperature = kd_of_row<A>(call.temperatures, call.temperature, row);
    asked.alpha = kd_of_row<A>(call.alphas, call.alpha, row);
    asked.beta = kd_of_row<A>(call.betas, call.beta, row);
    asked.start = call.start ? call.start[row] : 0;
    asked.count = call.count ? call.count[row] : call.classes;
    kd_int most = call.members > 0 && call.width < call.classes ? call.width : call.classes;
    asked.impossible = asked.start < 0 || asked.count < 1 || asked.count > most || asked.start > call.classes - asked.count ||
                       asked.kind < 0 || asked.kind >= KD_KINDS;
    if (asked.impossible) asked.start = 0, asked.count = 1, asked.kind = KD_CE;
    asked.hard = asked.counts && labelled;
    asked.soft = asked.counts && asked.alpha < A(1) && (call.members > 0 || call.listed > 0);
    if (asked.hard && (asked.label < 0 || asked.label >= asked.count)) asked.impossible = true;
    if (!asked.hard || asked.impossible) asked.label = -1;
    bool softened = asked.kind != KD_MSE && asked.kind != KD_MSE_CENTERED;
    A squared = asked.temperature * asked.temperature, one = A(1);
    asked.soft_scale = softened && call.scale_T2 ? squared : one;
    if (asked.soft && call.members == 1 && call.shares) {  // 1, or not a number: a mean of nothing
        A share = ((const A*)call.shares)[row * call.share_row];
        asked.soft_scale = asked.soft_scale * (share / share);
    }
    A unit = softened ? asked.soft_scale / asked.temperature : asked.soft_scale;
    A incoming = call.grad_output ? ((const A*)call.grad_output)[row * call.grad_output_stride] : one;
    A whole = asked.weight * scale * incoming;
    asked.soft_gradient = asked.soft ? whole * (one - asked.alpha) * unit : A(0);
    asked.hard_gradient = asked.hard ? whole * asked.alpha : A(0);
    if (asked.impossible) asked.hard_gradient = asked.soft_gradient = kd_constant<A>::nan();
    return asked;
}

// The row's part of the results: loss, soft part, hard part, each times the row's weight.
template <class A> KD_FN void kd_answer(const kd_asked<A>& asked, A soft, A hard, A (&out)[3]) {
    A zero = A(0);
    if (asked.impossible) hard = kd_constant<A>::nan();
    soft = asked.soft ? soft * asked.soft_scale : zero;
    hard = asked.hard || hard != hard ? hard : zero;
    A mixed = (asked.hard ? asked.alpha * hard : hard) + (asked.soft ? (A(1) - asked.alpha) * soft : zero);
    out[0] = asked.counts ? asked.weight * mixed : zero;
    out[1] = asked.counts ? asked.weight * soft : zero;
    out[2] = asked.counts ? asked.weight * hard : zero;
}

KD_FN kd_int kd_place(kd_int row, kd_int inner, kd_int outer_stride, kd_int inner_stride) {  // of a row, in elements
    return row < inner ? row * inner_stride : row / inner * outer_stride + row % inner * inner_stride;
}

}  // namespace KD_NAMESPACE
#endif
