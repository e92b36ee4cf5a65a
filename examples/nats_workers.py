"""One worker of a group that shares the changes which profilestore publishes to NATS JetStream.

    pip install nats-py
    python examples/nats_workers.py --stream PROFILES --group search-index

Start as many as you like: the workers of a group share its messages, and each message goes to one of them. A worker
acknowledges a message when its work is done. What a worker has taken when it dies goes to another one after --ack-wait
seconds, so a message can be worked on twice: work must bear that. With several workers two changes of one profile can
also be worked on in either order; keep the `sequence` of the last one beside what you keep of a profile, and leave out what
is not newer. (The events of a store that was restored from a backup are newer than those before.) --filter 'profiles.*.com.example.>' takes only the messages of one domain and its subdomains.
"""

import argparse
import asyncio
import json
import os
import signal
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy


async def work_on(event: dict, newest: dict[str, str], pause: float) -> str:
    """The work itself, here almost none. Says whether the change was new or older than one that is known."""
    await asyncio.sleep(pause)
    profile_id, sequence = event["subject"], event["sequence"]
    if newest.get(profile_id, "") >= sequence:
        return "old"
    newest[profile_id] = sequence
    return "new"


async def say_error(error: Exception) -> None:
    """One line for each connection that fails; the client tries again by itself."""
    print(f"NATS: {error or type(error).__name__}", file=sys.stderr, flush=True)


async def run(options: argparse.Namespace) -> None:
    """Takes messages until the limit, or until it is stopped; what is under way is finished."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # It tries for ever, so a stop must be able to end it.
    connecting = asyncio.ensure_future(
        nats.connect(
            options.server, name=f"{options.group} worker", max_reconnect_attempts=-1, error_cb=say_error
        )
    )
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([connecting, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not connecting.done():
        connecting.cancel()
        await asyncio.wait([connecting])
        return
    stopped.cancel()
    client = connecting.result()
    group = ConsumerConfig(
        durable_name=options.group,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=options.ack_wait,
        max_ack_pending=1000,
    )
    consumer = await client.jetstream().pull_subscribe(
        options.filter, durable=options.group, stream=options.stream, config=group
    )
    newest: dict[str, str] = {}
    done = 0
    while not stop.is_set() and (options.limit == 0 or done < options.limit):
        try:
            messages = await consumer.fetch(1 if options.limit else options.batch, timeout=1.0)
        except asyncio.TimeoutError:
            # Nothing has come.
            continue
        for message in messages:
            event = json.loads(message.data)
            print("took", event["id"], event["type"], event["subject"], flush=True)
            result = await work_on(event, newest, options.pause)
            # Waits until the broker has it, so that what is printed as done is not delivered again. What the broker does not
            # have by then it gives to another worker anyway.
            await message.ack_sync(timeout=options.ack_wait)
            print("done", event["id"], result, flush=True)
            done += 1
    await client.close()


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    parser.add_argument("--stream", default="PROFILES")
    parser.add_argument("--group", default="example")
    parser.add_argument("--filter", default="profiles.>", help="the subjects to take")
    parser.add_argument("--ack-wait", type=float, default=30.0, help="seconds until a message goes to another worker")
    parser.add_argument("--batch", type=int, default=10, help="messages to take at a time")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that the work on a message takes")
    parser.add_argument("--limit", type=int, default=0, help="end after so many messages")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
