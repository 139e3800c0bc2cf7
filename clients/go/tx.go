package posthaste

import (
	"context"
	"database/sql"
)

// Tx is a transaction of the caller's, made by [SQL] or [Pgx]: a connection outside a transaction
// does not compile.
type Tx interface {
	// query returns the first column of the answer.
	query(ctx context.Context, statement string, arguments ...any) ([]string, error)
}

// SQL adapts a transaction of database/sql, with whichever PostgreSQL driver.
func SQL(tx *sql.Tx) Tx {
	return sqlTx{tx}
}

type sqlTx struct {
	tx *sql.Tx
}

func (t sqlTx) query(ctx context.Context, statement string, arguments ...any) ([]string, error) {
	rows, err := t.tx.QueryContext(ctx, statement, arguments...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	return collect(rows)
}

// Pgx adapts a transaction of pgx: a pgx.Tx, a *pgxpool.Tx or the like.
//
// The interfaces say what is asked of it, so that users of database/sql need no pgx.
func Pgx[R PgxRows](tx PgxTx[R]) Tx {
	return pgxTx[R]{tx}
}

// PgxTx is what [Pgx] needs of a pgx.Tx. A connection has no Commit.
type PgxTx[R PgxRows] interface {
	Query(ctx context.Context, statement string, arguments ...any) (R, error)
	Commit(ctx context.Context) error
}

// PgxRows is what [Pgx] needs of a pgx.Rows.
type PgxRows interface {
	rows
	Close()
}

type pgxTx[R PgxRows] struct {
	tx PgxTx[R]
}

func (t pgxTx[R]) query(ctx context.Context, statement string, arguments ...any) ([]string, error) {
	rows, err := t.tx.Query(ctx, statement, arguments...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	return collect(rows)
}

// rows is what both have in common.
type rows interface {
	Next() bool
	Scan(into ...any) error
	Err() error
}

func collect(rows rows) ([]string, error) {
	var answers []string
	for rows.Next() {
		var answer string
		if err := rows.Scan(&answer); err != nil {
			return nil, err
		}
		answers = append(answers, answer)
	}
	return answers, rows.Err()
}
