"""Recognition: windows in, gesture events out.

``bundle`` (the model file) -> ``recogniser`` (windows to scores, batched) -> ``decoder`` (scores
to events) -> ``engine`` (both, for all hands). ``steppers`` runs the networks' arithmetic, by
compiled loops (``kernels``) where it knows the network, else by TorchScript. ``causal`` holds the
network that is trained here; any other TorchScript module will do that keeps the contract below.
Importing this package, reading metadata and decoding need no torch.

The contract, on canonical joints in metres (left hands mirrored if the metadata says so):

- streaming: ``forward(joints (B, n, 22, 3), state (B, S)) -> (logits (B, n, 1+C), boundary
  (B, n, 2), embedding (B, n, E), state (B, S))`` and ``initial_state(batch) -> (B, S)``. Output 0
  is none. Boundary: logits of a start and of an end, told ``boundary_delay_s`` after they were.
  All that is remembered of a hand is its row of the state. Optional: ``weights() -> dict[str,
  Tensor]``, which networks of ours have, so that their step can be compiled.
- windowed: ``forward(joints (B, size, 22, 3)) -> logits (B, C) or (B, 1+C)``.

Both may have ``verify(joints (1, T, 22, 3)) -> logits (1, 1+C)``, a second opinion on a whole
segment of any length, and must have ``refine(joints (1, T, 22, 3)) -> (1, 2)`` where the metadata's
``refine_margin_s`` is above 0: by how many seconds the start and the end of a segment, which is
given with so much on either side of it, should be moved.
"""
