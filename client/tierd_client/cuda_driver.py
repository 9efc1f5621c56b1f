"""The few calls of the CUDA driver that moving bytes into GPU memory needs besides kvikio.

By ctypes, because an engine's tensors may come from any library, and because kvikio must not be
asked for anything before a driver is known to answer: it hangs if its own start fails.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tierd.core.errors import InvalidRequest

LIBRARY: Final = "libcuda.so.1"

_DEVICE_ORDINAL: Final = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
_PORTABLE: Final = 1  # CU_MEMHOSTREGISTER_PORTABLE
_NON_BLOCKING: Final = 1  # CU_STREAM_NON_BLOCKING
_address = ctypes.c_uint64
_size = ctypes.c_size_t


class CudaFault(OSError):
    """The driver refused a call: a device that does not answer."""


class CudaDriver:
    """The driver of this process. Concurrency: any thread.

    A GPU's context is kept once it was used, as CUDA's runtime keeps it.

    Raises:
        InvalidRequest: there is no driver, or no GPU.
    """

    def __init__(self) -> None:
        self._contexts: dict[int, ctypes.c_void_p] = {}
        try:
            self._library = ctypes.CDLL(LIBRARY)
            self._call("cuInit", ctypes.c_uint(0))
        except (OSError, CudaFault) as error:
            remedy = "needs an NVIDIA driver and a GPU; fetch into CPU memory"
            raise InvalidRequest("memory", f"on a GPU ({error})", remedy) from error

    def device_of(self, address: int) -> int:
        """Return the number of the GPU that has this address in its memory.

        Raises:
            CudaFault: it is not an address of GPU memory.
        """
        device = ctypes.c_int(-1)
        self._call(
            "cuPointerGetAttribute",
            ctypes.byref(device),
            ctypes.c_int(_DEVICE_ORDINAL),
            _address(address),
        )
        if device.value < 0:
            raise CudaFault(f"{address:#x} is no address of GPU memory")
        return device.value

    @contextmanager
    def on_device(self, device: int) -> Iterator[None]:
        """Let this thread's calls be for a GPU, in the context that CUDA's runtime uses, too."""
        if device not in self._contexts:
            context = ctypes.c_void_p()
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ctypes.c_int(device))
            self._contexts[device] = context
        self._call("cuCtxPushCurrent_v2", self._contexts[device])
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def pinned(self, size: int) -> int:
        """Return the address of new pinned host memory, within `on_device`."""
        memory = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(memory), _size(size), ctypes.c_uint(_PORTABLE))
        assert memory.value is not None
        return memory.value

    def free_pinned(self, address: int) -> None:
        """Give back what `pinned` returned, within `on_device`."""
        self._call("cuMemFreeHost", ctypes.c_void_p(address))

    def copy_to_host(self, target: int, source: int, size: int) -> None:
        """Copy out of GPU memory, within `on_device`; done when it returns."""
        self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(target), _address(source), _size(size))

    def register(self, address: int, size: int) -> None:
        """Lock pages of host memory for every GPU's copies, within `on_device`.

        They have to be unlocked before they are unmapped: the driver would go on copying from
        the old pages, whatever is mapped there next.
        """
        arguments = (ctypes.c_void_p(address), _size(size), ctypes.c_uint(_PORTABLE))
        self._call("cuMemHostRegister_v2", *arguments)

    def unregister(self, address: int) -> None:
        """Unlock the pages that were locked from this address on, within `on_device`."""
        self._call("cuMemHostUnregister", ctypes.c_void_p(address))

    def stream(self) -> int:
        """Return a new stream that waits for no other, within `on_device`."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        assert stream.value is not None
        return stream.value

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy between any two addresses, the GPU's or the host's, within `on_device`."""
        arguments = (_address(target), _address(source), _size(size), ctypes.c_void_p(stream))
        self._call("cuMemcpyAsync", *arguments)

    def wait_for(self, stream: int) -> None:
        """Wait until all that was queued on a stream is done, within `on_device`."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def _call(self, name: str, *arguments: object) -> None:
        error = self._library[name](*arguments)
        if error:
            raise CudaFault(f"{name} failed with CUDA error {error}")
