"""Departures of the ferries, as a class."""

from datetime import date


class HarbourLog:
    """Keeps no state yet."""

    @staticmethod
    def ferry_crossings(departures: list[tuple[str, date]], harbour: str) -> list[date]:
        """
        Given every ferry departure as a pair of harbour name and day, return the days on which
        exactly one ferry left the given harbour, newest day first. A harbour name may be spelled
        with any mixture of upper and lower case.

        >>> ferry_crossings([("Bergen", date(2021, 5, 1)), ("Oslo", date(2021, 5, 1))], "bergen")
        [datetime.date(2021, 5, 1)]
        """
        sailings: dict[date, int] = {}
        for port, day in departures:
            if port.casefold() == harbour.casefold():
                sailings[day] = sailings.get(day, 0) + 1
        single = [day for day, ferries in sailings.items() if ferries == 1]
        return sorted(single, reverse=True)
