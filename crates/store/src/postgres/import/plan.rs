//! The statements of one import, from the table's columns as the catalogue has them.
//!
//! Identifiers stand quoted in the texts, values are parameters: `$1` is the number of the source,
//! then come the texts of [`Plan::texts`].

use std::fmt::Write as _;

use posthaste_core::{SchemaName, message};
use tokio_postgres::types::{ToSql, Type};

use crate::{
    ImportSource, Result, StoreError, StoreErrorKind,
    import::{TopicTemplate, quoted},
};

/// The table as the catalogue has it.
pub(super) struct Table {
    pub(super) oid: u32,
    /// Schema and name, quoted where SQL needs it.
    pub(super) name: String,
    pub(super) holds_rows: bool,
    pub(super) columns: Vec<Column>,
}

/// One of its columns.
pub(super) struct Column {
    pub(super) name: String,
    /// Of a domain, the type below.
    pub(super) type_name: String,
    /// Whether a unique index on this column alone says that it names a row.
    pub(super) is_unique: bool,
}

/// Reads the table `$1`: one row a column.
pub(super) const TABLE_SQL: &str = "select c.oid, \
     quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind in ('r', 'p'), \
     a.attname::text, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null), \
     exists (select from pg_index i where i.indrelid = c.oid and i.indisunique and i.indisvalid \
     and i.indpred is null and i.indnkeyatts = 1 and i.indkey[0] = a.attnum) \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped \
     join pg_type t on t.oid = a.atttypid where c.oid = to_regclass($1) order by a.attnum";

/// Types whose text names the same value again, whatever the session's settings.
const ID_TYPES: [&str; 7] =
    ["bigint", "integer", "smallint", "numeric", "uuid", "text", "character varying"];

/// The statements.
pub(super) struct Plan {
    /// Counts the rows: all, those left out, those copied before, those that wait.
    pub(super) count: String,
    /// Selects what [`Self::copy`] does, without payloads, in the order of the import.
    pub(super) check: String,
    /// Selects the ids of the rows to visit and the sizes of their payloads, in this order.
    pub(super) visit: String,
    /// Copies the rows whose ids are the last parameter: answers them, with whether they are new.
    pub(super) copy: String,
    /// The parameters after the first.
    texts: Vec<String>,
    pub(super) topic: TopicTemplate,
    pub(super) header_names: Vec<String>,
    pub(super) content_type: String,
    pub(super) is_uuid: bool,
    /// Whether rows are marked as published.
    pub(super) marks: bool,
}

impl Plan {
    /// Checks that the table has what `source` says of it.
    pub(super) fn new(source: &ImportSource, table: &Table, schema: &SchemaName) -> Result<Self> {
        let sketch = Sketch { source, table };
        let id = sketch.id()?;
        let payload = sketch.payload()?;
        let fields = sketch.fields()?;
        let (meant, texts) = sketch.meant()?;
        let order = sketch.order(&id.name)?;
        let mark = sketch.mark()?;
        let (name, id_sql) = (&table.name, quoted(&id.name));
        // The fence keeps this one probe of the primary key for each row. As a join it is planned
        // with figures of a table that grows meanwhile, and was seen to loop over all of it.
        let noted = format!(
            "exists (select from {schema}.imported_row i \
             where i.source = $1 and i.row_id = s.{id_sql}::text offset 0)"
        );
        let waits = format!("{meant} and not {noted}");
        // A row that was copied and not marked is visited once more to be marked.
        let visited = if mark.is_some() { &meant } else { &waits };
        let size = format!("coalesce(octet_length({payload}), 0)::int8");
        let whole = format!("{fields}, {size} as size, {payload} as payload");
        let chosen = format!(
            "s.{id_sql} = any (${}::text[]::{}[]) and {meant}",
            texts.len() + 2,
            id.type_name
        );
        let rows = match mark {
            None => format!("select {whole} from {name} s where {chosen}"),
            Some(set) => {
                format!("update {name} s set {set} where {chosen} returning {whole}")
            }
        };
        Ok(Self {
            count: format!(
                "select count(*), count(*) filter (where noted is null), \
                 count(*) filter (where noted), count(*) filter (where not noted) \
                 from (select case when {meant} then {noted} end as noted \
                 from {name} s offset 0) n"
            ),
            check: format!("select {fields}, {size} from {name} s where {waits} order by {order}"),
            visit: format!(
                "select s.{id_sql}::text, {size} from {name} s where {visited} order by {order}"
            ),
            // The note decides: `on conflict` leaves out what another import has copied.
            copy: format!(
                "with rows as ({rows}), taken as (insert into {schema}.imported_row \
                 (source, row_id) select $1, row_id from rows on conflict do nothing \
                 returning row_id) \
                 select r.row_id, r.topic, r.key, r.headers, r.header_values, r.correlation_id, \
                 r.is_placed, r.size, case when t.row_id is not null then r.payload end, \
                 t.row_id is not null from rows r left join taken t on t.row_id = r.row_id"
            ),
            texts,
            topic: source.topic.clone(),
            header_names: source.header_columns.iter().map(|(name, _)| name.clone()).collect(),
            content_type: sketch.content_type()?,
            is_uuid: id.type_name == "uuid",
            marks: source.marks_published,
        })
    }

    /// The parameters of every statement, for the source's number.
    pub(super) fn params<'a>(&'a self, source: &'a i32) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
        let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(source, Type::INT4)];
        params.extend(self.texts.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)));
        params
    }
}

/// The parts that the statements are made of. The table is `s`.
struct Sketch<'a> {
    source: &'a ImportSource,
    table: &'a Table,
}

impl Sketch<'_> {
    fn column(&self, name: &str) -> Result<&Column> {
        let columns = &self.table.columns;
        columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            self.invalid(&format!("has no column {name:?}; it has {}", names.join(", ")))
        })
    }

    fn invalid(&self, what: &str) -> StoreError {
        StoreError::new(StoreErrorKind::Invalid, format!("the table {} {what}", self.table.name))
    }

    /// The text of a column, or a null if there is none.
    fn text(&self, column: Option<&str>) -> Result<String> {
        let Some(name) = column else { return Ok("null::text".to_owned()) };
        self.column(name).map(|column| format!("s.{}::text", quoted(&column.name)))
    }

    fn texts<'n>(&self, columns: impl Iterator<Item = &'n str>) -> Result<String> {
        let texts: Vec<String> =
            columns.map(|name| self.text(Some(name))).collect::<Result<_>>()?;
        Ok(format!("array[{}]::text[]", texts.join(", ")))
    }

    fn id(&self) -> Result<&Column> {
        let id = self.column(&self.source.id)?;
        if !ID_TYPES.contains(&id.type_name.as_str()) {
            let (name, kind) = (&id.name, &id.type_name);
            let types = ID_TYPES.join(", ");
            return Err(self.invalid(&format!("has ids {name:?} of type {kind}, not {types}")));
        }
        if !id.is_unique {
            return Err(self.invalid(&format!(
                "has no unique index on the ids {:?} alone, so they name no row; create one",
                id.name
            )));
        }
        Ok(id)
    }

    /// What both `check` and `copy` read.
    fn fields(&self) -> Result<String> {
        let source = self.source;
        if let Some(headers) = &source.headers {
            let column = self.column(headers)?;
            if !matches!(column.type_name.as_str(), "json" | "jsonb" | "text" | "character varying")
            {
                let kind = &column.type_name;
                return Err(
                    self.invalid(&format!("has headers {headers:?} of type {kind}, not json"))
                );
            }
        }
        let is_placed: Vec<String> =
            source.order_by.iter().map(|name| format!("s.{} is not null", quoted(name))).collect();
        Ok(format!(
            "{} as row_id, {} as topic, {} as key, {} as headers, {} as header_values, \
             {} as correlation_id, ({}) as is_placed",
            self.text(Some(&source.id))?,
            self.texts(source.topic.columns())?,
            self.text(source.key.as_deref())?,
            self.text(source.headers.as_deref())?,
            self.texts(source.header_columns.iter().map(|(_, column)| column.as_str()))?,
            self.text(source.correlation_id.as_deref())?,
            is_placed.join(" and "),
        ))
    }

    /// The payload as bytes.
    fn payload(&self) -> Result<String> {
        let column = self.column(&self.source.payload)?;
        let name = quoted(&column.name);
        match column.type_name.as_str() {
            "bytea" => Ok(format!("s.{name}")),
            // The text as it is stored; jsonb has only the form that it gives itself.
            "json" | "jsonb" | "text" | "character varying" => {
                Ok(format!("convert_to(s.{name}::text, 'UTF8')"))
            }
            other => Err(self.invalid(&format!(
                "has payloads {:?} of type {other}, not bytea, json, jsonb or text",
                column.name
            ))),
        }
    }

    fn content_type(&self) -> Result<String> {
        if let Some(given) = &self.source.content_type {
            return Ok(given.clone());
        }
        let implied = match self.column(&self.source.payload)?.type_name.as_str() {
            "bytea" => message::BYTES,
            "json" | "jsonb" => message::JSON,
            _ => message::TEXT,
        };
        Ok(implied.to_owned())
    }

    /// The condition on rows that are meant, never null, and its parameters from `$2` on.
    fn meant(&self) -> Result<(String, Vec<String>)> {
        let source = self.source;
        let (mut sql, mut texts) = (String::from("true"), Vec::new());
        if let Some(published) = &source.published {
            let is_open = if self.is_boolean(published)? { "is not true" } else { "is null" };
            let _ = write!(sql, " and s.{} {is_open}", quoted(published));
        }
        if let (Some(from), Some(first)) = (&source.from, source.order_by.first()) {
            let column = self.column(first)?;
            texts.push(from.clone());
            let (nth, name) = (texts.len() + 1, quoted(first));
            let _ = write!(sql, " and coalesce(s.{name} >= ${nth}::{}, true)", column.type_name);
        }
        for (column, value) in &source.conditions {
            let text = self.text(Some(column))?;
            texts.push(value.clone());
            let _ = write!(sql, " and coalesce({text} = ${}, false)", texts.len() + 1);
        }
        Ok((sql, texts))
    }

    fn is_boolean(&self, published: &str) -> Result<bool> {
        let column = self.column(published)?;
        match column.type_name.as_str() {
            "boolean" => Ok(true),
            "timestamp with time zone" | "timestamp without time zone" => Ok(false),
            other => Err(self.invalid(&format!(
                "says what is published in {published:?} of type {other}, not a timestamp or a \
                 boolean"
            ))),
        }
    }

    fn order(&self, id: &str) -> Result<String> {
        let mut columns = Vec::new();
        for name in &self.source.order_by {
            columns.push(format!("s.{}", quoted(&self.column(name)?.name)));
        }
        columns.push(format!("s.{}", quoted(id)));
        Ok(columns.join(", "))
    }

    /// How a row is marked as published, if rows are.
    fn mark(&self) -> Result<Option<String>> {
        if !self.source.marks_published {
            return Ok(None);
        }
        let Some(published) = &self.source.published else {
            return Err(self.invalid("has no column that says what is published: nothing to mark"));
        };
        let value = if self.is_boolean(published)? { "true" } else { "clock_timestamp()" };
        Ok(Some(format!("{} = {value}", quoted(published))))
    }
}
