"""cdcloader: what AWS DMS writes to S3 goes in, Delta tables come out.

The map of the house; rooms stand in the order in which data passes through them. Modules marked *pure* do
no I/O, read no clock and log nothing.

    cli/                the commands: parse, call, print
    demo/               `cdcloader demo`: plays DMS over a sample database, loads it, proves the result
      dms_writer/         every shape of file that DMS writes; the tests use it too
    wiring.py           Config -> running objects; the only module that names concrete adapters
    daemon.py           the schedule, bounded workers, the drain on SIGTERM
    turns.py            one table's turn, and the boundary that keeps its trouble from the others; the single pass
    replicas.py         which daemons share the tables, and which tables are this one's
    loader/             one table, one batch: gather, decide, apply, record, in crash-safe order; discovery.py finds
                        the tables that patterns name
    source/             what DMS wrote; pure as a whole
      names.py            pure   name -> LOAD or CDC file, position
      layouts.py          pure   how the files of one source are named: folders, time zone, a pattern of the config's
      partitions.py       pure   folders that are dates, and where in a listing new files stand
      plan.py             pure   (listing, watermark, limits) -> batch, full load, late file, or nothing: actions.py;
                                 load_sets.py knows which LOAD files belong together
      transactions.py     pure   a file of all tables' changes -> the text of each table's rows
      rows.py             pure   files -> typed change rows; csv_rows.py, json_rows.py, parquet_rows.py and theirs do it
      rules.py            pure   column rules: rows as the source has them -> rows of the table; sql.py, casts.py
      survey.py           pure   names and first rows (heads.py) -> a table's config, its key by key_guess.py: `init`
    lake/               the Delta table
      log.py                     any version, and one atomic commit; snapshot.py (pure) is what a version holds,
                                 checkpoints.py reads whole versions
      target.py                  a table to write to, and what this process knows of it
      load.py                    a full load of any size, in bounded memory; filewriter.py grows its files,
                                 spill.py merges what came out of order, from local disk
      locate.py                  keys -> (file, row): pruning.py, row_groups.py, key_index.py; key_cache.py keeps what
                                 was read in memory, key_folder.py on local disk
      strategy.py         pure   what was hit -> the write plan
      apply.py                   a batch's net changes -> files to add and to remove; old_values.py reads what partial
                                 rows keep
      datafiles.py               writes Parquet in key order, with Delta statistics (statistics.py, pure)
      deletion_vectors.py pure   encode, decode; vectors.py reads, keeps and writes them
      quarantine.py              rows that could not be applied
      compaction.py       pure   which files upkeep writes again, and with which others: small jobs (live.py, pure)
      rewriting.py               carries such a job out, in bounded memory (sorted_rows.py)
      retype.py                  writes data files again with other types
      upkeep.py                  describes a table to upkeep; the protocol without vectors; checkpoints
      sweep.py                   deletes files that no version within the retention names, and expired log entries
    state/              where each table stands
      record.py           pure   the record, its phases and transitions; codecs.py (pure) is how its values are stored
      replicas.py         pure   the item that the replicas beat in, and whose a table is
      store.py                   the protocol; dynamodb.py, sqlite.py and memory.py keep it
    web/                /metrics, /livez, /readyz, /status, the page
    objects/            lists, reads and writes objects: S3 or a local folder
    changes/            what the rows mean
      net.py              pure   rows -> one net change per key; changed_keys.py: the old key's row is deleted
      schema.py           pure   columns and their Delta types; which type holds which
      evolution.py        pure   a batch's columns against the table's, by policy
      conversion.py       pure   text of any value; values of a narrower type
      type_names.py       pure   how types are spelled; a config is read without Polars
    metrics.py          every metric
    logs.py             every bound log key
    watchdog.py         notices turns that hang
    config/             frozen models; YAML and environment; reports every fault at once
    errors.py           what happened, where, and what to do
    redaction.py        takes credentials and row values out of texts; pure
    allocators.py       how much freed memory the allocators keep; the package calls it before Polars is imported

Imports go down this list, never up: cli > demo > wiring > daemon > turns | replicas > loader > source | lake |
state | web > objects > changes > metrics | logs | watchdog > config > errors > allocators | redaction. `make
check` keeps it so.
"""

from cdcloader.allocators import share_arenas

__version__ = "0.1.0"

share_arenas()
