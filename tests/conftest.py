"""One thread per test process: small models are fastest so, and processes run side by side."""

import torch

torch.set_num_threads(1)
