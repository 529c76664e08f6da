"""How a connection to Triton behaves, and how several Tritons are one: by gRPC's own policies, of which none is ours.

Of several each takes its turn. One that cannot be reached is left out until it can; so is one that does not answer
gRPC's pings while it has work, which a frozen process does not, and for a while one that nearly always fails. What was
under way there and what failed is asked again, on the next one, within its deadline: an inference changes nothing.
"""

import json
from typing import Any

from rrrserve.net.targets import is_several

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # a proxy variable in the environment must not see images
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),  # gRPC's own limit is two minutes: too long after a restart
    ("grpc.use_local_subchannel_pool", 1),  # else a new connection inherits the pause of an older one
]
_EJECTION = {
    "interval": "1s",
    "baseEjectionTime": "5s",
    "maxEjectionTime": "30s",
    # Deadlines are failures too: a lower threshold would take Tritons away from those that are overloaded. One in ten
    # may be left out, one at least; of two the other never is, as there is none left to compare it with.
    "failurePercentageEjection": {"threshold": 90, "minimumHosts": 2, "requestVolume": 4},
    "childPolicy": [{"round_robin": {}}],
}
_AGAIN = {
    # Where a Triton that is stopping still takes calls to refuse them, the next try may meet it again: of two Tritons
    # one in two. So there are more of them; a connection that broke is out of the turn before the first.
    "maxAttempts": 5,  # the most that gRPC allows
    "initialBackoff": "0.02s",
    "maxBackoff": "0.1s",
    "backoffMultiplier": 2,
    # INTERNAL is how Triton tells that the process behind a model is dead, which it never starts again.
    "retryableStatusCodes": ["UNAVAILABLE", "INTERNAL"],
}
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"outlier_detection_experimental": _EJECTION}, {"round_robin": {}}],  # the first it knows
    "methodConfig": [{"name": [{}], "retryPolicy": _AGAIN}],
    # Where everything fails nothing is asked again, from 500 failures more than answers on.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 1},
}
_OPTIONS_OF_SEVERAL: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.per_rpc_retry_buffer_size", 2**30),  # larger calls, by default those over 256 KiB, are not asked again
    # A ping when nothing came for 1 s while calls are under way. gRPC sends no third one before it has sent a call, so
    # that a slow model does not bring on Triton's limit, two pings too many in five minutes.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 2000),  # in grpcio 1.85 grpc.keepalive_timeout_ms alone has no effect
]


def channel_options(target: str) -> list[tuple[str, Any]]:
    """The options of a channel to a target (see `rrrserve.net.targets`)."""
    return [*_OPTIONS, *(_OPTIONS_OF_SEVERAL if is_several(target) else ())]
