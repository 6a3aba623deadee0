"""What every line that is logged during a run carries: the ids by which its message, slot and leader are known."""

import dramatiq
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware
from structlog.contextvars import bind_contextvars, clear_contextvars

#: The options of a message that are ids, by what a line calls them.
_OPTIONS = {"slot": "scheduled_at", "term": "term"}


class LogIds(Middleware):
    """Binds the ids of a message to its thread while it is processed. Put it first: others log as well."""

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Bind them."""
        del broker
        ids = {name: message.options[option] for name, option in _OPTIONS.items() if option in message.options}
        bind_contextvars(message_id=message.message_id, **ids)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        """Leave the thread as it was found."""
        del broker, message, result, exception
        clear_contextvars()

    def after_skip_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Leave the thread as it was found."""
        del broker, message
        clear_contextvars()
