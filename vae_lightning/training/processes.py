"""Data-parallel training by processes on one machine, which other machines cannot reach."""

import atexit
import os
import socket
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy


def disconnect() -> None:
    """Ends the threads of the connection; a process that exits with them is sometimes aborted."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_connection_error(error: Exception) -> bool:
    """Whether an error says that the connection to another process of the run broke."""
    is_of_gloo = isinstance(error, RuntimeError) and "gloo" in str(error)
    return is_of_gloo or isinstance(error, torch.distributed.DistError)


class LocalDDP(DDPStrategy):
    """DDP whose processes meet in a file and talk over the loopback interface.

    By default, PyTorch lets its first process listen on all interfaces of the machine.

    Args:
        folder: the run folder, which all processes see.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def setup_distributed(self) -> None:
        """Connects the processes, once; Lightning does not connect them again for the test."""
        if torch.distributed.is_initialized():
            super().setup_distributed()
            return
        self.set_world_ranks()
        assert self.cluster_environment is not None
        interface = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
        # Lightning draws the port for each run, and gives it to the processes that it starts
        meeting = self.folder / f".processes-{self.cluster_environment.main_port}"
        torch.distributed.init_process_group(
            self._get_process_group_backend(),
            init_method=meeting.resolve().as_uri(),
            rank=self.global_rank,
            world_size=self.world_size,
            timeout=self._timeout,
        )
        atexit.register(disconnect)
        super().setup_distributed()
        torch.distributed.barrier()
        meeting.unlink(missing_ok=True)  # everyone has met
