"""What a worker runs for Lithops; importing `farloom.lithops` before it has made the storage backend known."""

import os
import uuid
from typing import Any

from lithops.worker import function_handler


def run(payload: dict[str, Any]) -> None:
    os.environ["__LITHOPS_ACTIVATION_ID"] = uuid.uuid4().hex[:12]
    os.environ["__LITHOPS_BACKEND"] = "farloom"
    function_handler(payload)
