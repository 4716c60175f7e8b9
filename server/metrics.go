package server

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"registry/server/gc"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics has the names and labels that distribution's dashboards know, and the registry's own.
type metrics struct {
	registry      *prometheus.Registry
	requests      *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	inFlight      *prometheus.GaugeVec
	log           *slog.Logger
	requestBytes  *prometheus.HistogramVec
	responseBytes *prometheus.HistogramVec
}

func newMetrics(s *Server) *metrics {
	sizes := prometheus.ExponentialBuckets(1<<10, 16, 7) // 1 KiB to 16 GiB
	times := []float64{.001, .005, .025, .1, .5, 1, 5, 25, 60, 300}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		log:      s.log,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "registry_http_requests_total", Help: "Requests answered."}, []string{"handler", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "registry_http_request_duration_seconds", Help: "Time from a request's header to the end of its answer.", Buckets: times}, []string{"handler", "method"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "registry_http_in_flight_requests", Help: "Requests being answered."}, []string{"handler"}),
		requestBytes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "registry_http_request_size_bytes", Help: "Bytes of request bodies.", Buckets: sizes}, []string{"handler"}),
		responseBytes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "registry_http_response_size_bytes", Help: "Bytes of answers' bodies.", Buckets: sizes}, []string{"handler"}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.inFlight, m.requestBytes, m.responseBytes, contents{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "registry_build_info", Help: "The version that runs, always 1.", ConstLabels: prometheus.Labels{"version": s.cfg.Version}})
	build.Set(1)
	m.registry.MustRegister(build)
	m.registry.MustRegister(s.connections.metrics()...)
	if s.cfg.Mirror != nil {
		m.registry.MustRegister(upstreams{s.cfg.Mirror})
	}
	return m
}

// handler answers with the metrics there are. What cannot be collected is missing, and the log says why: when the
// database fails, the other figures are wanted most.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelError),
	})
}

func (m *metrics) begin(w *recorder) { m.inFlight.WithLabelValues(w.label()).Inc() }

func (m *metrics) end(w *recorder, r *http.Request, received int64, took time.Duration) {
	method, label := strings.ToLower(methodLabel(r.Method)), w.label()
	m.inFlight.WithLabelValues(label).Dec()
	m.requests.WithLabelValues(label, method, statusLabel(w.status)).Inc()
	m.duration.WithLabelValues(label, method).Observe(took.Seconds())
	m.requestBytes.WithLabelValues(label).Observe(float64(received))
	m.responseBytes.WithLabelValues(label).Observe(float64(w.bytes))
}

// contents collects what the registry holds, when it is asked.
type contents struct{ s *Server }

var (
	descBlobs        = prometheus.NewDesc("registry_blobs", "Blobs stored.", nil, nil)
	descManifests    = prometheus.NewDesc("registry_manifests", "Manifests of all repositories.", nil, nil)
	descTags         = prometheus.NewDesc("registry_tags", "Tags of all repositories.", nil, nil)
	descRepositories = prometheus.NewDesc("registry_repositories", "Repositories with a manifest.", nil, nil)
	descBytes        = prometheus.NewDesc("registry_bytes", "Bytes of all blobs.", nil, nil)
	descUploads      = prometheus.NewDesc("registry_uploads_open", "Upload sessions that are not finished.", nil, nil)
	descDamaged      = prometheus.NewDesc("registry_blobs_damaged", "Blobs found damaged and not pushed again since.", nil, nil)
	descRuns         = prometheus.NewDesc("registry_gc_runs_total", "Garbage collections, by this process or another.", nil, nil)
	descCollected    = prometheus.NewDesc("registry_gc_blobs_removed_total", "Blobs that they removed.", nil, nil)
	descFreed        = prometheus.NewDesc("registry_gc_bytes_freed_total", "Bytes that they freed.", nil, nil)
	descLastRun      = prometheus.NewDesc("registry_gc_last_start_timestamp_seconds", "When the last one began.", nil, nil)
	descLastTook     = prometheus.NewDesc("registry_gc_last_duration_seconds", "How long it took.", nil, nil)
	descLastComplete = prometheus.NewDesc("registry_gc_last_complete", "1 if it came to its end.", nil, nil)
	descWAL          = prometheus.NewDesc("registry_db_wal_bytes", "Bytes of the database's write-ahead log.", nil, nil)
	descCommits      = prometheus.NewDesc("registry_db_commits_total", "Commits of the database.", nil, nil)
	descTransactions = prometheus.NewDesc("registry_db_transactions_total", "Write transactions; divided by the commits, the size of a group.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c contents) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descBlobs, descManifests, descTags, descRepositories, descBytes, descUploads, descDamaged,
		descRuns, descCollected, descFreed, descLastRun, descLastTook, descLastComplete, descWAL, descCommits, descTransactions} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c contents) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	db := c.s.registry.DBStats()
	gauge(descWAL, db.WALBytes)
	ch <- prometheus.MustNewConstMetric(descCommits, prometheus.CounterValue, float64(db.Groups))
	ch <- prometheus.MustNewConstMetric(descTransactions, prometheus.CounterValue, float64(db.Transactions))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	t, err := c.s.registry.Totals(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descBlobs, err)
		return
	}
	gauge(descBlobs, t.Blobs)
	gauge(descManifests, t.Manifests)
	gauge(descTags, t.Tags)
	gauge(descRepositories, t.Repositories)
	gauge(descBytes, t.Bytes)
	gauge(descUploads, t.Uploads)
	gauge(descDamaged, t.Damaged)
	c.collections(ctx, ch)
}

// collections are of all processes: the database remembers them.
func (c contents) collections(ctx context.Context, ch chan<- prometheus.Metric) {
	all, err := gc.Collections(ctx, c.s.registry)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descRuns, err)
		return
	}
	counter := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	counter(descRuns, all.Runs)
	counter(descCollected, all.Blobs)
	counter(descFreed, all.Bytes)
	if all.Runs == 0 {
		return
	}
	complete := 0.0
	if all.Last.Complete {
		complete = 1
	}
	ch <- prometheus.MustNewConstMetric(descLastRun, prometheus.GaugeValue, float64(all.Last.Started.UnixMilli())/1000)
	ch <- prometheus.MustNewConstMetric(descLastTook, prometheus.GaugeValue, all.Last.Took.Seconds())
	ch <- prometheus.MustNewConstMetric(descLastComplete, prometheus.GaugeValue, complete)
}
