package command

import (
	"context"
	"fmt"

	"registry/server/doctor"
	"registry/server/remote"
)

// doctor looks at a registry as clients see it.
func (p *Program) doctor(ctx context.Context, s *settings) error {
	if s.NArg() != 1 {
		return usagef("doctor wants one URL, such as https://registry.example.com")
	}
	target, err := remote.ParseTarget(s.Args().First())
	if err == nil && target.Repo != "" {
		err = fmt.Errorf("%q: want a registry without a repository; --repo says where to push", s.Args().First())
	}
	if err != nil {
		return usageError{err}
	}
	opt := doctor.Options{Base: target.Base, Repo: s.String("repo")}
	if _, err := remote.ParseTarget(target.Base.Host + "/" + opt.Repo); err != nil {
		return usagef("--repo: %w", err)
	}
	if opt.Size, err = s.size("size"); err != nil {
		return err
	}
	if opt.Size < minExamined {
		return usagef("--size %s is too small to find out anything; at least 64KiB", s.String("size"))
	}
	if opt.Remote, err = p.remoteConfig(s); err != nil {
		return err
	}
	problems := 0
	opt.Found = func(c doctor.Check) {
		if c.Level == doctor.Problem {
			problems++
		}
		if !s.Bool("json") {
			p.printCheck(c)
		}
	}
	checks, err := doctor.Run(ctx, opt)
	if err == nil && s.Bool("json") {
		err = printJSON(p.Stdout, checks)
	}
	if err == nil && problems > 0 {
		err = findings{fmt.Errorf("%d problems", problems)}
	}
	return err
}

const minExamined = 64 << 10

func (p *Program) printCheck(c doctor.Check) {
	fmt.Fprintf(p.Stdout, "%-8s %-11s %s: %s\n", c.Level, c.Name, c.Did, c.Found)
	if c.Advice != "" {
		fmt.Fprintf(p.Stdout, "%21s%s\n", "", c.Advice)
	}
}
