"""Django's ORM over psycopg 3. Variables: PORT, DATABASE, LOGIN (trust or scram). Prints what it has seen; then "done"."""

import os
import sys
import threading

import django
from django.conf import settings

LOGIN = (
    {"USER": "alice", "PASSWORD": "secret", "OPTIONS": {"sslmode": "require"}}
    if os.environ["LOGIN"] == "scram"
    else {"USER": "postgres"}
)
BASE = {"ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": os.environ["PORT"], "NAME": os.environ["DATABASE"]}
settings.configure(
    DATABASES={
        # connections that are kept between requests and looked at before they are used
        "default": BASE | LOGIN | {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True},
        "pooled": BASE | LOGIN | {"OPTIONS": LOGIN.get("OPTIONS", {}) | {"pool": {"min_size": 2, "max_size": 4, "timeout": 20}}},
        "bound": BASE | LOGIN | {"OPTIONS": LOGIN.get("OPTIONS", {}) | {"server_side_binding": True}},
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    USE_TZ=True,
    TIME_ZONE="Europe/Vienna",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, connections, models, transaction  # noqa: E402
from django.db.migrations.executor import MigrationExecutor  # noqa: E402
from django.utils import timezone  # noqa: E402


class Note(models.Model):
    owner = models.ForeignKey(User, models.CASCADE, related_name="notes")
    text = models.TextField()
    size = models.IntegerField(default=0)
    at = models.DateTimeField(null=True)
    data = models.JSONField(default=dict)

    class Meta:
        app_label = "notes"
        constraints = [models.UniqueConstraint(fields=["owner", "text"], name="once")]


def migrated():
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        editor.create_model(Note)
        field = models.CharField(max_length=20, default="plain", db_index=True)
        field.set_attributes_from_name("kind")
        editor.add_field(Note, field)
        editor.remove_field(Note, field)
    tables = connection.introspection.table_names()
    print("tables", sorted(tables))
    executor = MigrationExecutor(connection)
    print("plan", executor.migration_plan(executor.loader.graph.leaf_nodes()))
    with connection.cursor() as cursor:
        print("constraints", sorted(connection.introspection.get_constraints(cursor, Note._meta.db_table)))


def queries():
    users = User.objects.bulk_create([User(username=f"user {n}", is_staff=n % 2) for n in range(30)])
    Note.objects.bulk_create([Note(owner=user, text=f"{n}", size=n, data={"n": [n]}) for user in users for n in range(20)])
    print("count", Note.objects.count(), Note.objects.filter(size__gt=18).values("owner").distinct().count())
    print("sum", Note.objects.aggregate(models.Sum("size")), Note.objects.filter(data__n__contains=3).count())
    print("related", [note.owner.username for note in Note.objects.select_related("owner").order_by("id")[:25:6]])
    print("fetched", [note.owner.is_staff for note in Note.objects.prefetch_related("owner").order_by("-id")[:5]])
    made = Note.objects.create(owner=users[0], text="made", at=timezone.now())
    print("made", Note.objects.get(pk=made.pk).text, Note.objects.filter(at__date=timezone.localdate()).count())
    print("or made", [Note.objects.get_or_create(owner=users[1], text="once")[1] for _ in range(2)])
    print("upserted", Note.objects.update_or_create(owner=users[1], text="once", defaults={"size": 7})[1])
    print("updated", Note.objects.filter(text="3").update(size=models.F("size") + 1), made.delete()[0])
    batch = [Note(owner=users[2], text=str(n), size=-n) for n in range(3)]
    Note.objects.bulk_create(batch, update_conflicts=True, unique_fields=["owner", "text"], update_fields=["size"])
    print("conflicts", list(Note.objects.filter(owner=users[2], size__lt=0).values_list("size", flat=True).order_by("size")))


def transactions():
    try:
        with transaction.atomic():
            Group.objects.create(name="lost")
            raise RuntimeError
    except RuntimeError:
        pass
    done = []
    with transaction.atomic():
        Group.objects.create(name="kept")
        transaction.on_commit(lambda: done.append("committed"))
        try:
            with transaction.atomic():
                Group.objects.create(name="kept")
        except IntegrityError as error:
            print("refused", error.__cause__.sqlstate)
        with transaction.atomic():
            Group.objects.create(name="inner")
    print("groups", sorted(Group.objects.values_list("name", flat=True)), done)


def cursors():
    print("iterator", sum(note.size for note in Note.objects.order_by("id").iterator(chunk_size=50)))
    with transaction.atomic():
        print("iterator", sum(note.size for note in Note.objects.order_by("id").iterator(chunk_size=50)))
    with connection.cursor() as cursor:
        cursor.execute("select count(*), current_setting('TimeZone') from notes_note where size = %s", [3])
        print("raw", cursor.fetchone())
    for alias in ("pooled", "bound"):
        for _ in range(8):
            found = Note.objects.using(alias).filter(size=5, owner__is_staff=True).order_by("id").values_list("text")
            print(alias, list(found[:3]))


def zones():
    noon = timezone.datetime(2024, 7, 1, 12, tzinfo=timezone.get_fixed_timezone(0))
    note = Note.objects.create(owner=User.objects.order_by("id")[0], text="noon", at=noon)
    print("zone", Note.objects.get(pk=note.pk).at.isoformat(), Note.objects.filter(at__hour=14).count())
    with connection.cursor() as cursor:
        cursor.execute("select at::text, current_setting('TimeZone') from notes_note where id = %s", [note.pk])
        print("as text", cursor.fetchone())


def counted():
    """As requests of a web server do it: every thread has a connection of its own, and locks the row it changes."""
    note = Note.objects.get(text="noon")
    failures = []

    def work():
        try:
            for _ in range(10):
                with transaction.atomic():
                    locked = Note.objects.select_for_update().get(pk=note.pk)
                    locked.size += 1
                    locked.save()
                list(User.objects.filter(username="user 3"))
            connections.close_all()
        except Exception as error:  # noqa: BLE001
            failures.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("counted", Note.objects.get(pk=note.pk).size, failures)
    print("skipped", Note.objects.select_for_update(skip_locked=True).count())


if os.environ["LOGIN"] == "scram":
    for alias in ("default", "pooled"):
        with connections[alias].cursor() as cursor:
            cursor.execute("select 1")
            print("logged in", cursor.fetchone())
else:
    for part in (migrated, queries, transactions, cursors, zones, counted):
        part()
connections.close_all()
connections["pooled"].close_pool()
print("done")
sys.stdout.flush()
