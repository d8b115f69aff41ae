from sampan.cli.options import Command
from sampan.cli.runoptions import CREATE_OPTIONS

CREATE = Command(
    "create",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a new container",
    lambda s, v, w: 0,
    CREATE_OPTIONS,
    minimum=1,
    interspersed=False,
)
