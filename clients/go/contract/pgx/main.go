// The contract suite's session with pgx.
package main

import (
	"context"
	"errors"
	"log"
	"os"

	"github.com/jackc/pgx/v5"

	"example.com/posthaste"
	"example.com/posthaste/contract/protocol"
)

type session struct {
	conn *pgx.Conn
	tx   pgx.Tx
}

func main() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := protocol.Serve(ctx, &session{conn: conn}); err != nil {
		log.Fatal(err)
	}
}

func (s *session) Begin(ctx context.Context) (err error) {
	s.tx, err = s.conn.Begin(ctx)
	return err
}

// Commit takes "rolled back instead" for an answer, as an application does that ignores errors.
func (s *session) Commit(ctx context.Context) error {
	if err := s.tx.Commit(ctx); !errors.Is(err, pgx.ErrTxCommitRollback) {
		return err
	}
	return nil
}

func (s *session) Rollback(ctx context.Context) error {
	return s.tx.Rollback(ctx)
}

func (s *session) Execute(ctx context.Context, statement string) error {
	_, err := s.tx.Exec(ctx, statement)
	return err
}

func (s *session) Tx() posthaste.Tx {
	return posthaste.Pgx(s.tx)
}
