// Hands published from JavaScript (the wire is described in hgr_stream/publish.py).
//
//   npm ci
//   node publish.mjs [endpoint] [frames] [device clock starts at, ms]
//
// A flat hand that is moved to the right and back, 100 frames a second.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { encode } from "@msgpack/msgpack";
import { Push } from "zeromq";

const [endpoint = "tcp://127.0.0.1:6460", frames = "500", startMs = "1000"] = process.argv.slice(2);

const fingers = [
  [-0.03, -0.025], [-0.022, -0.095], [0, -0.101], [0.02, -0.096], [0.038, -0.086],
];

/** 22 joints, x y z each: wrist, palm (the stream computes it), four joints a finger. */
function hand(x) {
  const joints = [x, 0.2, 0, x, 0.2, -0.05];
  for (const [spread, base] of fingers)
    for (let i = 0; i < 4; i++) joints.push(x + spread, 0.2, base - 0.025 * i);
  return joints;
}

const socket = new Push({ sendHighWaterMark: 128, immediate: true, linger: 500 });
socket.connect(endpoint);
const source = randomUUID();
for (let seq = 0; seq < Number(frames); seq++) {
  const joints = hand(0.2 * Math.sin(seq / 30));
  await socket.send(
    encode({
      source,
      seq,
      // More than 2^53 nanoseconds do not fit a number: BigInt is a MessagePack integer too.
      time_ns: BigInt(startMs) * 1_000_000n + BigInt(seq) * 10_000_000n,
      hands: [
        // Bytes for speed, or plain numbers: both are understood.
        seq % 2
          ? { side: "right", joints: Buffer.from(Float32Array.from(joints).buffer) }
          : { side: "right", joints },
      ],
    }, { useBigInt64: true }),
  );
  await sleep(10);
}
socket.close();
