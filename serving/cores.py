"""Lets torch's idle threads sleep. Import it before torch, whose OpenMP reads this once, when it is loaded.

By default they spin. On a machine whose cores have other work, or under a container's quota, the spinning
threads keep the working one from its core, and a picture takes many times as long.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # noqa: TID251 - told to OpenMP, not read by us
