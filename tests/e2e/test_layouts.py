"""Folders of dates on S3, through the daemon: one request a poll, whatever lies in older folders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from cdcloader.demo.dms_writer import Change, DmsSettings, cdc_files, load_files

COLUMNS = (("id", "long"), ("name", "string"))
SETTINGS = DmsSettings(format="csv", header=True, date_partition="YYYYMMDD")


def test_a_daemon_follows_folders_of_dates(make_site, started, until):
    """Days of changes are applied in order; then a poll is one LIST from yesterday's folder on, and new files come."""
    site = make_site("s3")
    start = datetime.now(UTC) - timedelta(days=9)

    def change(at, name):
        one = Change("U", {"id": 1, "name": name}, at)
        for file in cdc_files(SETTINGS, "s/t", COLUMNS, [one], at=at):
            site.put(file.key, file.content)

    site.configure([{"source": "s/t", "primary_key": ["id"]}])
    for file in load_files(SETTINGS, "s/t", COLUMNS, [[{"id": 1, "name": "x"}]], at=start):
        site.put(file.key, file.content)
    for day in range(9):
        change(start + timedelta(days=day), f"day {day}")
    daemon = started(site.daemon())

    def name():
        if not site.versions("s/t"):
            return None
        return site.readers("s/t")["Polars"]().get_column("name").to_list()

    until(lambda: name() == ["day 8"], "all days are applied")
    until(lambda: daemon.status()["s/t"]["backlog_files"] == 0, "nothing waits")
    first = f"data/raw/s/t/{datetime.now(UTC) - timedelta(days=4):%Y/%m/%d}"

    def polls():
        lists = [unquote(r.query) for r in site.aws.requests if r.lists and r.path.startswith(f"/{site.name}")]
        return [query for query in lists if "prefix=data/raw/s/t" in query]

    site.aws.requests.clear()
    until(lambda: len(polls()) >= 3, "some polls")
    assert all(query.partition("start-after=")[2].partition("&")[0] > first for query in polls()), polls()
    change(datetime.now(UTC), "new")
    until(lambda: name() == ["new"], "the new file is applied")
