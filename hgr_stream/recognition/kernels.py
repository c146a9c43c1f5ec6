"""The step of our two networks as compiled loops: what ``causal.StreamingNet`` and
``flagship_stream.StreamingFlagship`` do in hundreds of small tensor operations, in one call.

A step is some 0.4 M multiplications; what it costs is calls, and reading the weights once. So all
weights lie in one array, in the order of their use, everything else is scratch that stays in the
first cache, and products are sums of rows of the weights, which compile to vector instructions.
``steppers`` lays the arrays out and is the only caller.

Rows (a frame of a hand) run in tiles of ``TILE``, which share one reading of the weights. Every
number of a row is made by the same operations in the same order wherever the row lies in a tile:
scores do not depend, not in the last digit, on how hands and frames were grouped.

States are those of the networks, number for number, and are advanced in place.

All is in one file because numba tells by a file's date whether code that it kept is still good.
"""

# mypy: ignore-errors
# What follows is numba's language: loops on arrays, typed when they are compiled.

from typing import Any, Final

import numba
import numpy as np

TILE: Final = 4
DEPTH: Final = 8  #: products' depths are padded with zeros to a multiple of it
HISTORY: Final = 16  # frames in the ring
FRAME: Final = 63  # numbers of each: joints about the palm, palm
PROJECTED: Final = 150
BONES: Final = 14  # of the vectors after those; distances are the rest
SHAPE: Final = 117
POSE: Final = 63
MOVES: Final = 135
STATISTICS: Final = 4  # of the flagship's pooling: mean, maximum, weighted mean, last
SCRATCH: Final = 29  #: rows of scratch, and a row for each branch of each row of a tile
_LAGS: Final = (1, 2, 4, 8, 16)
_JOINT_LAGS: Final = (1, 4)


# Multiply and add may be rounded once; nothing is put into another order. The compiled code is
# kept beside Python's own .pyc files, or in the user's cache where those may not be written.
_compiled: Any = numba.njit(
    cache=True, fastmath={"contract"}, error_model="numpy", nogil=True, boundscheck=False
)
_inner: Any = numba.njit(
    fastmath={"contract"}, error_model="numpy", boundscheck=False, no_cpython_wrapper=True
)
_ZERO, _ONE = np.float32(0), np.float32(1)
_LIMIT = np.float32(5)
_SCORE = np.float32(8)  # flagship.ATTENTION_LIMIT


@_inner
def _add_product(out, x, first, arena, at, depth, n, rows):
    """out (rows, n) += x (rows, first : first + depth) @ (depth, n) at ``at`` in the arena."""
    w = arena[at : at + depth * n].reshape(depth, n)
    if rows == 4:
        for k in range(0, depth, 4):
            i = first + k
            a0, a1, a2, a3 = x[0, i], x[0, i + 1], x[0, i + 2], x[0, i + 3]
            b0, b1, b2, b3 = x[1, i], x[1, i + 1], x[1, i + 2], x[1, i + 3]
            c0, c1, c2, c3 = x[2, i], x[2, i + 1], x[2, i + 2], x[2, i + 3]
            d0, d1, d2, d3 = x[3, i], x[3, i + 1], x[3, i + 2], x[3, i + 3]
            for j in range(n):
                w0, w1, w2, w3 = w[k, j], w[k + 1, j], w[k + 2, j], w[k + 3, j]
                out[0, j] = out[0, j] + (a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3)
                out[1, j] = out[1, j] + (b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3)
                out[2, j] = out[2, j] + (c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3)
                out[3, j] = out[3, j] + (d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3)
        return
    for r in range(rows):
        for k in range(0, depth, 8):
            i = first + k
            a0, a1, a2, a3 = x[r, i], x[r, i + 1], x[r, i + 2], x[r, i + 3]
            a4, a5, a6, a7 = x[r, i + 4], x[r, i + 5], x[r, i + 6], x[r, i + 7]
            for j in range(n):
                t = a0 * w[k, j] + a1 * w[k + 1, j] + a2 * w[k + 2, j] + a3 * w[k + 3, j]
                u = a4 * w[k + 4, j] + a5 * w[k + 5, j] + a6 * w[k + 6, j] + a7 * w[k + 7, j]
                out[r, j] = (out[r, j] + t) + u


@_inner
def _project(joints, b, i, sparse, arena, projected):
    """The constant product of ``features.projection_matrix``, of which few entries are not zero."""
    for j in range(PROJECTED):
        t = _ZERO
        for k in range(sparse[j], sparse[j + 1]):
            t = t + joints[b, i, sparse[PROJECTED + 1 + k]] * arena[k]
        projected[j] = t


@_inner
def _shape(p, f, r):
    """``features.shape_features``: joints about the palm, bone directions, distances."""
    for j in range(60):
        f[r, j] = p[j] * np.float32(15)
    for v in range(29):
        x, y, z = p[63 + 3 * v], p[64 + 3 * v], p[65 + 3 * v]
        norm = np.sqrt(x * x + y * y + z * z)
        if v < BONES:
            scale = np.float32(1.5) / max(norm, np.float32(1e-3))
            f[r, 60 + 3 * v] = x * scale
            f[r, 61 + 3 * v] = y * scale
            f[r, 62 + 3 * v] = z * scale
        else:
            f[r, 88 + v] = norm * np.float32(15)


@_inner
def _movements(p, state, b, ring, phase, age, arena, scales, f, r, at):
    """Scaled movements over every lag into f from ``at`` on; none where the past has not been."""
    for i in range(5):
        past = ring + ((phase - _LAGS[i]) % HISTORY) * FRAME + 60
        for a in range(3):
            moved = p[60 + a] - state[b, past + a] if age >= _LAGS[i] else _ZERO
            f[r, at + 3 * i + a] = moved * arena[scales + 3 * i + a]
    for i in range(2):
        past = ring + ((phase - _JOINT_LAGS[i]) % HISTORY) * FRAME
        to = 15 + 60 * i
        for j in range(60):
            moved = p[j] - state[b, past + j] if age >= _JOINT_LAGS[i] else _ZERO
            f[r, at + to + j] = moved * arena[scales + to + j]


@_inner
def _limit(f, r, n):
    for j in range(n):
        f[r, j] = min(max(f[r, j], -_LIMIT), _LIMIT)


@_inner
def _fill(out, rows, arena, at, n):
    for r in range(rows):
        for j in range(n):
            out[r, j] = arena[at + j]


@_inner
def _relu(x, rows, n):
    for r in range(rows):
        for j in range(n):
            x[r, j] = max(x[r, j], _ZERO)


@_inner
def _softmax(x, r, at, n, gain, out, b, i):
    """Of the n logits x (r, at : at + n) times gain, into out (b, i)."""
    top = x[r, at]
    for j in range(1, n):
        top = max(top, x[r, at + j])
    total = _ZERO
    for j in range(n):
        out[b, i, j] = np.exp((x[r, at + j] - top) * gain)
        total = total + out[b, i, j]
    for j in range(n):
        out[b, i, j] = out[b, i, j] / total


@_compiled
def causal_step(arena, plan, sparse, scratch, joints, state, gain, probs, edges, embedding):
    """``StreamingNet`` on joints (B, n, 66), states (B, S): probabilities (B, n, 1+C), boundaries
    (B, n, 2) and embedding (B, n, W) are written, states advanced."""
    batch, n = joints.shape[0], joints.shape[1]
    scales, start, width, layers = plan[0], plan[1], plan[2], plan[3]
    depth_in, n_in, outputs, head_n, period = plan[4], plan[5], plan[6], plan[7], plan[8]
    p, features, taps = scratch[0], scratch[1:5], scratch[5:9]
    x, h, out = scratch[9:13], scratch[13:17], scratch[17:21]
    phases = scratch[21]
    layers_at = 2 + HISTORY * FRAME
    for begin in range(0, batch * n, TILE):
        rows = min(TILE, batch * n - begin)
        at = start
        for r in range(rows):
            b, i = (begin + r) // n, (begin + r) % n
            age, phase = state[b, 0], int(state[b, 1])
            phases[r] = state[b, 1]
            _project(joints, b, i, sparse, arena, p)
            _shape(p, features, r)
            _movements(p, state, b, 2, phase, age, arena, scales, features, r, SHAPE)
            _limit(features, r, n_in)
            slot = 2 + (phase % HISTORY) * FRAME
            for j in range(FRAME):
                state[b, slot + j] = p[j]
            state[b, 0] = min(age + _ONE, np.float32(HISTORY))
            state[b, 1] = (phase + 1) % period
        _fill(x, rows, arena, at, width)
        at += width
        _add_product(x, features, 0, arena, at, depth_in, width, rows)
        at += depth_in * width
        _relu(x, rows, width)
        base = layers_at
        for layer in range(layers):
            d = plan[9 + layer]
            for r in range(rows):
                b, phase = (begin + r) // n, int(phases[r])
                oldest = base + (phase % (2 * d)) * width
                older = base + ((phase + d) % (2 * d)) * width
                for j in range(width):
                    taps[r, j] = state[b, oldest + j]
                    taps[r, width + j] = state[b, older + j]
                    taps[r, 2 * width + j] = x[r, j]
                for j in range(width):
                    state[b, oldest + j] = x[r, j]
            base += 2 * d * width
            _fill(h, rows, arena, at, width)
            at += width
            _add_product(h, taps, 0, arena, at, 3 * width, width, rows)
            at += 3 * width * width
            _relu(h, rows, width)
            _add_product(x, h, 0, arena, at, width, width, rows)
            at += width * width
        _relu(x, rows, width)
        _fill(out, rows, arena, at, head_n)
        _add_product(out, x, 0, arena, at + head_n, width, head_n, rows)
        for r in range(rows):
            b, i = (begin + r) // n, (begin + r) % n
            _softmax(out, r, 0, outputs, gain, probs, b, i)
            for j in range(2):
                edges[b, i, j] = _ONE / (_ONE + np.exp(-out[r, outputs + j]))
            for j in range(width):
                embedding[b, i, j] = x[r, j]


@_inner
def _palm_frame(p, f, r, at):
    """``flagship.palm_frame``: fingers in the palm's own axes, and two of the axes."""
    fx, fy, fz = p[24] - p[0], p[25] - p[1], p[26] - p[2]
    scale = _ONE / max(np.sqrt(fx * fx + fy * fy + fz * fz), np.float32(1e-4))
    fx, fy, fz = fx * scale, fy * scale, fz * scale
    ax, ay, az = p[12] - p[48], p[13] - p[49], p[14] - p[50]
    along = ax * fx + ay * fy + az * fz
    ax, ay, az = ax - along * fx, ay - along * fy, az - along * fz
    scale = _ONE / max(np.sqrt(ax * ax + ay * ay + az * az), np.float32(1e-4))
    ax, ay, az = ax * scale, ay * scale, az * scale
    nx, ny, nz = fy * az - fz * ay, fz * ax - fx * az, fx * ay - fy * ax
    big, small = np.float32(15), np.float32(1.5)
    for joint in range(19):
        x, y, z = p[3 + 3 * joint], p[4 + 3 * joint], p[5 + 3 * joint]
        f[r, at + 3 * joint] = (x * fx + y * fy + z * fz) * big
        f[r, at + 3 * joint + 1] = (x * ax + y * ay + z * az) * big
        f[r, at + 3 * joint + 2] = (x * nx + y * ny + z * nz) * big
    f[r, at + 57], f[r, at + 58], f[r, at + 59] = fx * small, fy * small, fz * small
    f[r, at + 60], f[r, at + 61], f[r, at + 62] = nx * small, ny * small, nz * small


@_inner
def _agree(logits, row, branches, classes, coarse_of, coarse, give_coarse, work, state, b, at):
    """``flagship.agree`` on the heads' logits (branches, coarse + classes), into the state."""
    head, fine, summed = work[0], work[1], work[2]
    for j in range(coarse):
        head[j] = summed[j] = _ZERO
    for k in range(classes):
        fine[k] = _ZERO
    for g in range(branches):
        for part in range(2):
            first, n = (0, coarse) if part == 0 else (coarse, classes)
            if n == 0:
                continue
            top, total = logits[row + g, first], _ZERO
            for j in range(n):
                top = max(top, logits[row + g, first + j])
            for j in range(n):
                work[3, j] = np.exp(logits[row + g, first + j] - top)
                total = total + work[3, j]
            for j in range(n):
                work[part, j] = work[part, j] + work[3, j] / (total * branches)
    least = np.float32(1e-12)
    for k in range(classes):
        if coarse > 0:
            summed[coarse_of[k]] = summed[coarse_of[k]] + fine[k]
        else:
            state[b, at + k] = np.log(max(fine[k], least))
    if coarse == 0:
        return
    for j in range(coarse):
        head[j] = np.float32(0.5) * (head[j] + summed[j])
        if give_coarse:
            state[b, at + j] = np.log(max(head[j], least))
    if not give_coarse:
        for k in range(classes):
            c = coarse_of[k]
            state[b, at + k] = np.log(max(fine[k] / max(summed[c], least) * head[c], least))


@_inner
def _flagship_tile(
    arena, at, plan, coarse_of, scratch, state, gain, probs, embedding, owners, frames, steps, rows,
    layers_at,
):  # fmt: skip
    """``StreamingFlagship.advance`` for rows whose features lie in the scratch."""
    width, layers, depth_in, branches = plan[2], plan[3], plan[4], plan[6]
    outputs, head_n, classes, coarse, give_coarse = plan[7], plan[8], plan[9], plan[10], plan[11]
    attention, score_n, n_logits = plan[12], plan[13], plan[9] + plan[10]
    wide, each = branches * width, width // attention
    out_at = state.shape[1] - outputs
    pool_at = out_at - 4 * wide - branches * attention - 1
    features, taps, x = scratch[1:5], scratch[5:9], scratch[9:13]
    h, part, stats = scratch[13:17], scratch[17:21], scratch[21:25]
    work, logits = scratch[25:29], scratch[29 : 29 + rows * branches]
    _fill(x, rows, arena, at, wide)
    at += wide
    _add_product(x, features, 0, arena, at, depth_in, wide, rows)
    at += depth_in * wide
    _relu(x, rows, wide)
    base = layers_at
    for layer in range(layers):
        d = plan[17 + layer]
        for g in range(branches):
            for r in range(rows):
                b = owners[r]
                oldest = base + (steps[r] % (2 * d)) * wide + g * width
                older = base + ((steps[r] + d) % (2 * d)) * wide + g * width
                for j in range(width):
                    part[r, j] = x[r, g * width + j]
                    taps[r, j] = state[b, oldest + j]
                    taps[r, width + j] = state[b, older + j]
                    taps[r, 2 * width + j] = part[r, j]
                for j in range(width):
                    state[b, oldest + j] = part[r, j]
            _fill(h, rows, arena, at, width)
            at += width
            _add_product(h, taps, 0, arena, at, 3 * width, width, rows)
            at += 3 * width * width
            _relu(h, rows, width)
            _add_product(part, h, 0, arena, at, width, width, rows)
            at += width * width
            for r in range(rows):
                for j in range(width):
                    x[r, g * width + j] = part[r, j]
        base += 2 * d * wide
    _relu(x, rows, wide)

    for g in range(branches):
        _fill(part, rows, arena, at, score_n)
        _add_product(part, x, g * width, arena, at + score_n, width, score_n, rows)
        at += score_n + width * score_n
        for r in range(rows):
            for j in range(attention):
                h[r, g * attention + j] = np.exp(min(max(part[r, j], -_SCORE), _SCORE))

    # The running statistics: steps, sum, weights, weighted sum; maximum; last. What they are
    # after each row is set aside, since the next row may be the same hand's.
    weights_at = pool_at + 1 + wide
    weighted_at = weights_at + branches * attention
    highest_at, last_at = weighted_at + wide, weighted_at + 2 * wide
    for r in range(rows):
        b = owners[r]
        state[b, pool_at] = state[b, pool_at] + _ONE
        for j in range(branches * attention):
            state[b, weights_at + j] = state[b, weights_at + j] + h[r, j]
        for g in range(branches):
            to = g * STATISTICS * width
            for j in range(width):
                k, w = g * width + j, g * attention + j // each
                v = x[r, k]
                state[b, pool_at + 1 + k] = state[b, pool_at + 1 + k] + v
                state[b, weighted_at + k] = state[b, weighted_at + k] + v * h[r, w]
                state[b, highest_at + k] = max(state[b, highest_at + k], v)
                state[b, last_at + k] = v
                stats[r, to + j] = state[b, pool_at + 1 + k] / state[b, pool_at]
                stats[r, to + width + j] = state[b, highest_at + k]
                stats[r, to + 2 * width + j] = state[b, weighted_at + k] / state[b, weights_at + w]
                stats[r, to + 3 * width + j] = v

    depth = STATISTICS * width
    for g in range(branches):
        _fill(part, rows, arena, at, head_n)
        _add_product(part, stats, g * depth, arena, at + head_n, depth, head_n, rows)
        at += head_n + depth * head_n
        for r in range(rows):
            for j in range(head_n):
                logits[r * branches + g, j] = part[r, j]
    for r in range(rows):
        b = owners[r]
        none = _ZERO
        for g in range(branches):
            none = none + logits[r * branches + g, n_logits]
        state[b, out_at] = none
        _agree(
            logits, r * branches, branches, classes, coarse_of, coarse, give_coarse, work, state,
            b, out_at + 1,
        )  # fmt: skip
        i = frames[r]
        _softmax(state, b, out_at, outputs, gain, probs, b, i)
        for j in range(wide):
            embedding[b, i, j] = x[r, j]


@_compiled
def flagship_step(
    arena, plan, sparse, coarse_of, scratch, joints, state, gain, probs, edges, embedding
):
    """``StreamingFlagship`` on joints (B, n, 66), states (B, S): probabilities (B, n, 1+C),
    boundaries (B, n, 2) and embedding (B, n, G*W) are written, states advanced."""
    batch, n = joints.shape[0], joints.shape[1]
    scales, start, width, n_in = plan[0], plan[1], plan[2], plan[5]
    branches, outputs = plan[6], plan[7]
    period, stride, wrap = plan[14], plan[15], np.float32(plan[16])
    layers_at = 5 + HISTORY * FRAME
    last_at = state.shape[1] - outputs - branches * width
    p, features = scratch[0], scratch[1:5]
    of_tile = np.empty((3, TILE), np.int64)
    owners, frames, steps = of_tile[0], of_tile[1], of_tile[2]
    told = _ONE / (_ONE + np.exp(np.float32(10)))
    rows = 0
    for row in range(batch * n):
        b, i = row // n, row % n
        age = state[b, 0]
        count = int(age)
        phase = count % HISTORY
        _project(joints, b, i, sparse, arena, p)
        due = count % stride == 0
        if age == 0:
            for a in range(3):
                state[b, 1 + a] = p[60 + a]
        else:
            past = 5 + ((phase - 1) % HISTORY) * FRAME + 60
            x, y, z = p[60] - state[b, past], p[61] - state[b, past + 1], p[62] - state[b, past + 2]
            state[b, 4] = state[b, 4] + np.sqrt(x * x + y * y + z * z)
        if due:
            r = rows
            _shape(p, features, r)
            _palm_frame(p, features, r, SHAPE)
            _movements(p, state, b, 5, phase, age, arena, scales, features, r, SHAPE + POSE)
            at = SHAPE + POSE + MOVES
            for a in range(3):
                features[r, at + a] = p[60 + a] * _LIMIT
                features[r, at + 3 + a] = (p[60 + a] - state[b, 1 + a]) * np.float32(8)
            features[r, at + 6] = state[b, 4] * np.float32(2) - _ONE
            features[r, at + 7] = np.log1p(age) - np.float32(3)
            _limit(features, r, n_in)
            owners[r], frames[r], steps[r] = b, i, count // stride % period
            rows += 1
        elif i == 0:
            _softmax(state, b, state.shape[1] - outputs, outputs, gain, probs, b, i)
            for j in range(branches * width):
                embedding[b, i, j] = state[b, last_at + j]
        for j in range(FRAME):
            state[b, 5 + phase * FRAME + j] = p[j]
        age = age + _ONE
        state[b, 0] = age - wrap if age >= np.float32(2) * wrap else age
        edges[b, i, 0] = edges[b, i, 1] = told
        if rows == TILE or (rows > 0 and row == batch * n - 1):
            _flagship_tile(
                arena, start, plan, coarse_of, scratch, state, gain, probs, embedding, owners,
                frames, steps, rows, layers_at,
            )  # fmt: skip
            rows = 0
    for b in range(batch):
        for i in range(1, n):
            if (int(state[b, 0]) - n + i) % stride != 0:
                for j in range(outputs):
                    probs[b, i, j] = probs[b, i - 1, j]
                for j in range(branches * width):
                    embedding[b, i, j] = embedding[b, i - 1, j]


@_inner
def _stretch(joints, segment, sparse, arena, length, inverse_rate, margin, work, p, n):
    """``segments.segment_features`` of a segment (T, 66), stretched to ``length`` frames, into work
    (length, n); a ``margin`` of frames that is not negative adds what lies inside of it."""
    frames = joints.shape[1]
    scale = np.float32((frames - 1) / (length - 1))
    centre_x, centre_y, centre_z = _ZERO, _ZERO, _ZERO
    duration = np.log(np.float32(frames) * inverse_rate)
    for t in range(length):
        at = scale * np.float32(t)
        before = min(int(at), frames - 1)
        after = min(before + 1, frames - 1)
        part = at - np.float32(before)
        for j in range(66):
            a, b = joints[segment, before, j], joints[segment, after, j]
            work[0, j] = a * (_ONE - part) + b * part
        for j in range(PROJECTED):
            v = _ZERO
            for k in range(sparse[j], sparse[j + 1]):
                v = v + work[0, sparse[PROJECTED + 1 + k]] * arena[k]
            p[j] = v
        row = 3 + t
        _shape(p, work, row)
        x, y, z = p[60], p[61], p[62]
        centre_x, centre_y, centre_z = centre_x + x, centre_y + y, centre_z + z
        work[row, 117], work[row, 118], work[row, 119] = x, y, z
        work[row, 123] = duration
        if margin >= 0:
            place = np.float32(t) / np.float32(length - 1) * np.float32(frames - 1)
            inside = place > margin - 0.5 and place < frames - margin - 0.5
            work[row, 124] = _ONE if inside else _ZERO
    every = np.float32(length)
    centre_x, centre_y, centre_z = centre_x / every, centre_y / every, centre_z / every
    for t in range(length - 1, -1, -1):
        row = 3 + t
        for a in range(3):
            moved = work[row, 117 + a] - work[row - 1, 117 + a] if t > 0 else _ZERO
            work[row, 120 + a] = moved * np.float32(60)
    for t in range(length):
        row = 3 + t
        work[row, 117] = (work[row, 117] - centre_x) * np.float32(10)
        work[row, 118] = (work[row, 118] - centre_y) * np.float32(10)
        work[row, 119] = (work[row, 119] - centre_z) * np.float32(10)
        _limit(work, row, n)


@_inner
def _convolve(arena, at, work, gathered, out, layer):
    """ReLU of a convolution along rows of work; with ``pool`` the greater of each two rows.

    layer: where the first tap's rows begin, rows, taps, numbers a row before and after, where the
    result's rows begin, pool. Returns where the arena goes on."""
    source, steps, taps, n_in, n = layer[0], layer[1], layer[2], layer[3], layer[4]
    target, pool = layer[5], layer[6]
    depth = (taps * n_in + DEPTH - 1) // DEPTH * DEPTH
    for begin in range(0, steps, TILE):
        rows = min(TILE, steps - begin)
        for r in range(rows):
            for k in range(taps):
                for j in range(n_in):
                    gathered[r, k * n_in + j] = work[source + begin + r + k, j]
            for j in range(taps * n_in, depth):
                gathered[r, j] = _ZERO
        _fill(out, rows, arena, at, n)
        _add_product(out, gathered, 0, arena, at + n, depth, n, rows)
        _relu(out, rows, n)
        for r in range(rows):
            for j in range(n):
                if pool == 0:
                    work[target + begin + r, j] = out[r, j]
                elif r % 2 == 0:
                    work[target + (begin + r) // 2, j] = max(out[r, j], out[r + 1, j])
    return at + n + depth * n


@_compiled
def segment_net(arena, plan, layers, sparse, scratch, work, joints, inverse_rate, gain, result):
    """``SegmentVerifier`` (probabilities) and ``SegmentDater`` (seconds) of segments (B, T, 66),
    into result (B, 1, outputs). work: each layer's rows with their padding, see ``layers``."""
    start, length, n_in, last, rows = plan[0], plan[1], plan[2], plan[3], plan[4]
    head_n, outputs, margin, mixed, end = plan[5], plan[6], plan[7], plan[8], plan[9]
    p, gathered, out = scratch[0], scratch[1:5], scratch[5:9]
    one = result.shape[1]
    for b in range(joints.shape[0]):
        work[:, :] = _ZERO
        _stretch(joints, b, sparse, arena, length, inverse_rate, margin, work, p, n_in)
        at = start
        for t in range(length):
            for j in range(n_in):
                work[3 + t, j] = (work[3 + t, j] - arena[at + j]) * arena[at + n_in + j]
        at += 2 * n_in
        for i in range(layers.shape[0]):
            at = _convolve(arena, at, work, gathered, out, layers[i])
        # What is said comes from mean and maximum, or from all rows by one more layer.
        n, depth = head_n, 2 * last
        for j in range(last):
            total, top = _ZERO, work[end, j]
            for t in range(rows):
                total = total + work[end + t, j]
                top = max(top, work[end + t, j])
                if mixed > 0:
                    gathered[0, j * rows + t] = work[end + t, j]
            if mixed == 0:
                gathered[0, j] = total / np.float32(rows)
                gathered[0, last + j] = top
        if mixed > 0:
            n, depth = mixed, rows * last
        for stage in range(2 if mixed > 0 else 1):
            if stage == 1:
                for j in range(mixed):
                    gathered[0, j] = max(out[0, j], _ZERO)
                n, depth = head_n, mixed
            _fill(out, one, arena, at, n)
            _add_product(out, gathered, 0, arena, at + n, depth, n, one)
            at += n + depth * n
        if mixed > 0:
            for j in range(outputs):
                result[b, 0, j] = out[0, j]
        else:
            _softmax(out, one - 1, 0, outputs, gain, result, b, one - 1)
