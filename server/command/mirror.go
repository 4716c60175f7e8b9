package command

import (
	"strings"
	"time"

	"registry/server/mirror"

	"github.com/urfave/cli/v2"
)

func mirrorFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "upstream", EnvVars: env("upstream"),
			Usage: "mirror a `REGISTRY` under its name, such as docker.io or ghcr.io=https://ghcr.io,user=FILE; several, or said several times (see Mirror)"},
		&cli.DurationFlag{Name: "tag-ttl", EnvVars: env("tag-ttl"), Value: 5 * time.Minute, DefaultText: "5m",
			Usage: "for this `TIME` a mirrored tag is served without asking its upstream; 0: ask each time"},
		&cli.BoolFlag{Name: "offline", EnvVars: env("offline"), Usage: "ask no upstream: serve what is here"},
		&cli.BoolFlag{Name: "fetch-for-users-only", EnvVars: env("fetch-for-users-only"),
			Usage: "ask upstreams only for clients that have logged in; the others get what is here"},
		&cli.StringFlag{Name: "cache-max", EnvVars: env("cache-max"), DefaultText: "no limit",
			Usage: "evict mirrored content that was not pulled for longest while it takes more than this `SIZE`, such as 50GiB; never what was pushed"},
		&cli.StringFlag{Name: "mirror-file", EnvVars: env("mirror-file"),
			Usage: "copy what a `FILE` names from other registries, on its schedules (see Mirror)"},
	}
}

// mirrorConfig reads the flags about other registries.
func (s *settings) mirrorConfig() (cfg mirror.Config, err error) {
	if cfg.Upstreams, err = mirror.ParseUpstreams(strings.Join(s.StringSlice("upstream"), ",")); err != nil {
		return cfg, s.bad("upstream", err)
	}
	cfg.Offline, cfg.UsersOnly = s.Bool("offline"), s.Bool("fetch-for-users-only")
	switch ttl := s.Duration("tag-ttl"); {
	case ttl < 0:
		return cfg, s.badf("tag-ttl", "%s is negative", ttl)
	case ttl == 0:
		cfg.TagTTL = -1
	default:
		cfg.TagTTL = ttl
	}
	if s.String("cache-max") != "" {
		cfg.CacheMax, err = s.size("cache-max")
	}
	return cfg, err
}
