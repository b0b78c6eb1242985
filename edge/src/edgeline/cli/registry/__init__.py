"""`edgeline registry`: the group of its commands, which are in the modules of this folder."""

from typing import Any

from edgeline.cli.options import add_group


def add_registry(commands: Any) -> None:
    add_group(commands, "registry", _add_commands, "manage an edge model registry")


def _add_commands(group: Any) -> None:
    """Look into an edge model registry, decide which release its channels serve,
    and keep it in order.

    Examples:
    edgeline registry init registry --model solar-cells --keys keys
    edgeline registry list registry --root keys/root.json
    edgeline registry promote registry solar-cells --from candidate --to production
    edgeline registry verify oci://registry.example/cells --root keys/root.json
    """
    from edgeline.cli.registry.channels import add_promote, add_rollback
    from edgeline.cli.registry.fleet import add_fleet, add_watch_rollout
    from edgeline.cli.registry.init import add_init
    from edgeline.cli.registry.keys import add_key_commands
    from edgeline.cli.registry.list import add_list
    from edgeline.cli.registry.rollout import add_rollout
    from edgeline.cli.registry.show import add_show
    from edgeline.cli.registry.upkeep import add_copy, add_gc, add_refresh
    from edgeline.cli.registry.verify import add_verify

    for add in (
        add_init,
        add_list,
        add_show,
        add_promote,
        add_rollout,
        add_watch_rollout,
        add_fleet,
        add_rollback,
        add_verify,
        add_refresh,
        add_gc,
        add_copy,
        add_key_commands,
    ):
        add(group)
