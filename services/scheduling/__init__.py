"""One leader among any number of schedulers, and every slot of every schedule enqueued once.

``lease`` is the right to lead, ``queue`` the enqueue that only its holder can do, ``election`` the thread that
campaigns, renews and resigns, ``scheduler`` what ties them to the schedules. docs/scheduling.md has the guarantee.
For the workers there are ``runs``, what became of the ticks, and ``crew`` and ``shift``, who drains a backlog together.
"""
