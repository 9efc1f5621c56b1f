"""kvikio and CUDA: on a stand-in driver everywhere, and on a GPU where there is one."""
