"""Named sizes: two to try things on, and the paper's."""


