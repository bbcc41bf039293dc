"""Numbers that all implementations of the entropy coder share, as files rely on them.

`rans`, `entropy` and their helpers compute in TensorFlow; `lanes` and `walk`, which
decode on machines without it, in NumPy. docs/format.md says how each number is used.
The decoder in JavaScript, `web/src`, has its own copy, which tests compare.
"""

# Latents. Means, and latents once decoded, are integers in units of 1 / UNIT.
MEAN_BITS = 4
UNIT = 2.0**MEAN_BITS
# Quantised latents are clipped to +-LATENT_MAX; those of z to +-Z_MAX.
LATENT_MAX = 8191
Z_MAX = 127
# A latent with a table index up to this (a standard deviation of up to 0.23) is not
# coded: it nearly always rounds to its mean, and skipping it saves time.
SKIPPED = 6
# Magnitudes from this on share an entry of the quantiser's tables.
LEVELS = 8

# Exact networks. Float32 adds integers exactly, in any order, while every partial sum
# stays below EXACT_LIMIT.
EXACT_LIMIT = 2**24
ACTIVATION_MAX = 255  # the largest magnitude of an input
WEIGHT_MAX = 127  # the largest magnitude of a weight
# The networks of later slices see earlier latents in units of 1 / 2**CONTEXT_BITS,
# clipped to +-ACTIVATION_MAX.
CONTEXT_BITS = 3

# The order of latents. Offsets (rows, columns) of the neighbours that a step of the
# first slice uses.
CROSS = ((-1, 0), (0, -1), (0, 1), (1, 0))
DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
# (distance to the neighbours in latents, their offsets) of each step, coarse to fine.
PYRAMID = ((2, DIAGONAL), (2, CROSS), (1, DIAGONAL), (1, CROSS))
# Taps (row, column) of a 3x3 kernel above, left, right of and below its centre.
BESIDE = ((0, 1), (1, 0), (1, 2), (2, 1))

# The second synthesis. Its noise repeats every so many pixels, in each dimension.
NOISE_PERIOD = 256

# Strings of rANS. The frequencies of a row of the tables sum to TOTAL.
PRECISION = 12
TOTAL = 1 << PRECISION
MAX_LANES = 1024
# A lane costs about 3 bytes: its final state, minus the information in that state.
# Twice as many lanes made the file of a Kodak image 0.08 % larger, and halved the time
# to code its symbols.
SYMBOLS_PER_LANE = 4096
LOWEST = 1 << 16  # the least state: where an encoder starts and a decoder ends
MAX_EXCESS = (1 << 15) - 1  # of an escape; zigzag coded, it still fits 16 bits
LARGE = 255  # the byte that says: this escape is one of the 16-bit ones
HEADER = 3  # 16-bit units before the final states
